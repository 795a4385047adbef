//! Wrapped keys: who can read, who can only write.
//!
//! Three kinds of key lie under `keys/`, each in an age file (or, in a repository with `encryption = "none"`, in plain JSON, so
//! that the rest of the format is the same and its tags still detect damage):
//! * the *catalogue key*, wrapped to every recipient **and** to the agent: chunk ids, indexes, entry lists, points;
//! * one *data key* per backup run, wrapped to the recipients only and forgotten when the run ends;
//! * one *log key* for a day at most of a database's log, wrapped and forgotten likewise.
//!
//! So an agent's own files open the catalogue, and no earlier data.
//!
//! Who the recipients are is told by a sequence of *recipient sets*; a key is wrapped anew by storing a further object beside the
//! old one (`rotation`). Promises: nothing is ever wrapped to somebody whom only the site names, and no wrap is deleted before a
//! newer one of the same key was stored or opened.
//!
//! Leaves out on purpose: another catalogue key, or other data keys for what is stored already. Rotation re-wraps; it does not
//! take back what somebody has opened or copied.

mod age_file;
mod catalogue;
mod check;
mod data;
mod identity;
mod log;
mod passphrase;
mod rotation;
mod sets;
mod wrap;

use zeroize::Zeroizing;

pub use catalogue::Catalogue;
pub use check::{Holder, KeyHolders};
pub use data::{DataKeys, create_data_key, data_key_id, data_key_object};
pub use identity::{Identities, Recipients, generate_identity, parse_public_key};
pub use log::{create_log_key, log_key_id};
pub use passphrase::{is_passphrase_wrapped, open_identities, open_within, wrap_identity};
pub use rotation::{RotationPlan, RotationRequest, RotationSummary};
pub use sets::{RecipientSet, SetMember, SetName, parse_set_key};
pub use wrap::WrapName;

/// A 256-bit key, wiped when dropped.
pub type Secret = Zeroizing<[u8; 32]>;

/// Fresh randomness.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0u8; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system always gives randomness");
    bytes
}

/// SHA-256 of bytes.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).into()
}
