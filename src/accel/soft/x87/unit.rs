//! The seam: transcendental functions run on the host's own x87 where there is one, else on the portable twin.

#[cfg(target_arch = "x86_64")]
pub(super) use super::host::{
    arctangent, cosine, exp2_minus_one, log2_of_one_plus_times, log2_times, sine, sine_cosine, tangent,
};
#[cfg(not(target_arch = "x86_64"))]
pub(super) use super::transcendental::{
    arctangent, cosine, exp2_minus_one, log2_of_one_plus_times, log2_times, sine, sine_cosine, tangent,
};
