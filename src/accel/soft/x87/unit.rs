//! The seam: where arithmetic runs on the host's own x87, and where on the portable twin.

#[cfg(target_arch = "x86_64")]
pub(super) use super::host::{
    add, arctangent, cosine, div, exp2_minus_one, log2_of_one_plus_times, log2_times, mul, remainder, sine,
    sine_cosine, sqrt, sub, tangent,
};
#[cfg(not(target_arch = "x86_64"))]
pub(super) use super::softfloat::{add, div, mul, remainder, sqrt, sub};
#[cfg(not(target_arch = "x86_64"))]
pub(super) use super::transcendental::{
    arctangent, cosine, exp2_minus_one, log2_of_one_plus_times, log2_times, sine, sine_cosine, tangent,
};
