//! Network interfaces of this process's namespace: name to index and back.

use std::ffi::CString;

use crate::error::DatapathError;

/// The interface's index.
pub(crate) fn interface_index(name: &str) -> Result<u32, DatapathError> {
    let missing = || DatapathError::NoInterface { name: name.to_owned() };
    let name = CString::new(name).map_err(|_| missing())?;
    // SAFETY: a NUL-terminated string, as if_nametoindex(3) asks.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(missing()),
        index => Ok(index),
    }
}

/// The interface's name.
pub(crate) fn interface_name(ifindex: u32) -> Result<String, DatapathError> {
    let mut buffer = [0u8; libc::IF_NAMESIZE];
    // SAFETY: the buffer has IF_NAMESIZE bytes, as if_indextoname(3) asks.
    let found = unsafe { libc::if_indextoname(ifindex, buffer.as_mut_ptr().cast()) };
    if found.is_null() {
        return Err(DatapathError::NoInterface { name: ifindex.to_string() });
    }
    let end = buffer.iter().position(|byte| *byte == 0).unwrap_or(buffer.len());
    Ok(String::from_utf8_lossy(&buffer[..end]).into_owned())
}
