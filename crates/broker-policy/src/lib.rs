//! Policy as data, and the decision made from it.
//!
//! Pure: `(Policy, Request) -> Decision`, without I/O, clock or state. What no rule allows is denied.
#![forbid(unsafe_code)]

mod rule;

pub use rule::Policy;
