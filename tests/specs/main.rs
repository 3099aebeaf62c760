//! The specifications: what the two programs do, seen from outside.

mod harness;
