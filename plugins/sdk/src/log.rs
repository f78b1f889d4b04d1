//! Lines in the gateway's log, with the plugin's name, version and request id.
//!
//! Rate-limited by the host: past the limit lines are counted and dropped. Never log what
//! a client wrote unless the operator asked for it.

use crate::host;

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For whoever writes the plugin.
    Debug,
    /// Worth knowing.
    Info,
    /// Something is off; the request goes on.
    Warn,
    /// Something failed.
    Error,
}

/// Writes one line of the given level; the host cuts it after 4 KiB.
pub fn write(level: Level, message: impl AsRef<str>) {
    host::write_log(level, message.as_ref());
}

/// Writes a line for whoever writes the plugin.
pub fn debug(message: impl AsRef<str>) {
    write(Level::Debug, message);
}

/// Writes a line worth knowing.
pub fn info(message: impl AsRef<str>) {
    write(Level::Info, message);
}

/// Writes a line about something that is off while the request goes on.
pub fn warn(message: impl AsRef<str>) {
    write(Level::Warn, message);
}

/// Writes a line about something that failed.
pub fn error(message: impl AsRef<str>) {
    write(Level::Error, message);
}
