//! The portable twin against the host's own x87.

use super::samples::Random;
use super::status::{BEFORE_RESULT, EXCEPTIONS, IE};
use super::{F80, host_arithmetic as host, softfloat};

type Binary = fn(u16, F80, F80) -> softfloat::Answer;

const OPERATIONS: [(&str, Binary, Binary); 7] = [
    ("add", host::add, softfloat::add),
    ("sub", host::sub, softfloat::sub),
    ("mul", host::mul, softfloat::mul),
    ("div", host::div, softfloat::div),
    ("sqrt", |control, a, _| host::sqrt(control, a), |control, a, _| softfloat::sqrt(control, a)),
    (
        "fprem",
        |control, a, b| host::remainder(control, a, b, false),
        |control, a, b| softfloat::remainder(control, a, b, false),
    ),
    (
        "fprem1",
        |control, a, b| host::remainder(control, a, b, true),
        |control, a, b| softfloat::remainder(control, a, b, true),
    ),
];

#[test]
fn the_twin_computes_what_the_host_computes() {
    let mut random = Random::seeded();
    let rounds = Random::rounds(200_000);
    let mut failures = 0;
    for _ in 0..rounds {
        let (control, a, b) = (random.control(), random.number(), random.number());
        for (name, host, twin) in OPERATIONS {
            let (mut expected, mut ours) = (host(control, a, b), twin(control, a, b));
            for answer in [&mut expected, &mut ours] {
                if answer.1 & !control & BEFORE_RESULT != 0 {
                    answer.0 = F80::ZERO;
                    answer.1 &= EXCEPTIONS;
                }
                // An invalid operation has no quotient; `execute` takes none from it.
                if answer.1 & IE != 0 || answer.0.is_nan() {
                    answer.1 &= EXCEPTIONS;
                }
            }
            if expected != ours {
                failures += 1;
                if failures < 20 {
                    println!("{name} cw {control:04x} {a:x?} {b:x?}\n  host {expected:x?}\n  twin {ours:x?}");
                }
            }
        }
    }
    assert_eq!(failures, 0);
}
