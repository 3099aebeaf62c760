//! The manifest, `broker.toml`: references only, committed, read whole or refused with every problem of it.

mod check;
mod file;
mod literal;
mod local;
mod read;
mod select;

pub use check::{Deliver, KnownKind, MAX_MANIFEST_BYTES, Manifest, Profile, Project, Secret, parse};
pub use file::{schema, user_config_schema};
pub use literal::looks_secret;
pub use local::{Narrowing, parse_local};
pub use read::{Reader, read_table};
pub use select::{SelectError, Selection, Wish};
