//! The software x86-64 CPU: runs guests where there is no hypervisor.
