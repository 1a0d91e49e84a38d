//! The host's terminal: raw mode and its way back, the escape key, the stdin pump.
