//! Interrupt controllers and the interval timer, shared by all backends.
