//! The virtual machine: memory, backend, devices, vCPU threads and the run loop.
