//! SSE to SSE4.2 and MMX: the arithmetic, as pure functions on register values.
