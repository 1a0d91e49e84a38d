/* bcryptprimitives.dll for Wine 8, which lacks it: Rust's standard library takes its random numbers from
 * ProcessPrng. Built beside the program by ci/windows-programs. */
#include <windows.h>
#include <ntsecapi.h>

__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE data, SIZE_T length)
{
    return RtlGenRandom(data, (ULONG)length);
}
