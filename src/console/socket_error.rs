//! Why a socket for a serial port cannot be made.
#![forbid(unsafe_code)]

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// A socket that cannot be listened on.
#[derive(Debug, Error)]
pub enum SocketError {
    /// Another process listens there.
    #[error("cannot listen on {}: another process does. Name another path with `--serial unix:PATH`, or end that process", .0.display())]
    InUse(PathBuf),
    /// A file of another kind.
    #[error("cannot listen on {}: there is a file that is no socket. Name another path with `--serial unix:PATH`, or remove it", .0.display())]
    NotASocket(PathBuf),
    /// The host's refusal.
    #[error("cannot listen on {}: {source}. Name a path of 107 bytes at most, in a folder that you may write, with `--serial unix:PATH`", path.display())]
    Host {
        /// The socket's path.
        path: PathBuf,
        /// The host's reason.
        source: io::Error,
    },
}
