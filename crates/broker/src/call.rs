//! One call of this program: what holds for every command.

use std::cell::RefCell;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::RawFd;
use std::path::PathBuf;

use broker_core::code::ErrorCode;
use broker_core::secret::SecretValue;
use zeroize::Zeroizing;

use crate::entry::take_descriptor;
use crate::report::{Fault, Report};

/// Longest passphrase, in bytes.
const MAX_PASSPHRASE_BYTES: u64 = 4096;

/// Flags that every command has.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Use this manifest instead of the nearest `broker.toml`
    #[arg(long, global = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub manifest: Option<PathBuf>,
    /// Never ask a person anything (also BROKER_NON_INTERACTIVE=1, CI)
    #[arg(long, global = true)]
    pub non_interactive: bool,
    /// Read the embedded store's passphrase from this descriptor, to its end, when it is needed
    #[arg(long, global = true, value_name = "N")]
    pub passphrase_fd: Option<RawFd>,
    /// Leave out notes and progress
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

/// One call of this program.
#[derive(Debug)]
pub(crate) struct Call {
    /// How our words are shown.
    pub report: Report,
    /// The manifest that was named.
    pub manifest: Option<PathBuf>,
    /// Nobody may be asked anything.
    pub non_interactive: bool,
    passphrase: RefCell<Option<File>>,
}

impl Call {
    /// Takes over what the flags name. Must come before anything is opened: see [`take_descriptor`].
    ///
    /// # Errors
    /// A passphrase descriptor that is not open.
    pub(crate) fn new(global: Global, report: Report) -> Result<Self, Fault> {
        let passphrase = match global.passphrase_fd {
            None => None,
            Some(0) => Some(standard_input()?),
            Some(number) => Some(File::from(take_descriptor(number).ok_or_else(|| {
                Fault::new(
                    ErrorCode::Usage,
                    format!("descriptor {number} of `--passphrase-fd` is not open for reading"),
                )
                .hint("open it in the shell: broker --passphrase-fd 3 ... 3<FILE".to_owned())
            })?)),
        };
        let set = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty() && v != "0" && v != "false");
        let non_interactive = global.non_interactive || set("BROKER_NON_INTERACTIVE") || set("CI");
        Ok(Self { report, manifest: global.manifest, non_interactive, passphrase: RefCell::new(passphrase) })
    }

    /// Reads the passphrase from its descriptor, once; `None` when none was named or it was read before.
    ///
    /// One line feed at its end is not part of it, as it is not when a passphrase is typed.
    ///
    /// # Errors
    /// A descriptor that can't be read, or holds nothing or too much.
    pub(crate) fn passphrase(&self) -> Result<Option<SecretValue>, Fault> {
        let Some(file) = self.passphrase.borrow_mut().take() else { return Ok(None) };
        let fault = |words: String| Fault::new(ErrorCode::Unauthenticated, words);
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_PASSPHRASE_BYTES as usize + 1));
        file.take(MAX_PASSPHRASE_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| fault(format!("cannot read the passphrase from its descriptor: {error}")))?;
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        match bytes.len() as u64 {
            0 => Err(fault("the descriptor of `--passphrase-fd` holds no passphrase".into())),
            len if len > MAX_PASSPHRASE_BYTES => {
                Err(fault(format!("the passphrase is longer than {MAX_PASSPHRASE_BYTES} bytes")))
            }
            _ => Ok(Some(SecretValue::new(std::mem::take(&mut bytes)))),
        }
    }
}

fn standard_input() -> Result<File, Fault> {
    let cannot =
        |error: rustix::io::Errno| Fault::new(ErrorCode::Usage, format!("cannot read standard input: {error}"));
    Ok(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).map_err(cannot)?.into())
}
