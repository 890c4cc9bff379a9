//! Files and folders below the folder of logs.
//!
//! A link is followed as long as what it leads to is below that folder: the opened file is checked, not its name, so a change
//! of links between check and use opens nothing else.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::os::fd::AsRawFd as _;
use std::path::{Component, Path, PathBuf};

use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use rustix::fs::{Mode, OFlags};
use tokio::io::AsyncReadExt as _;
use tokio_stream::StreamExt;
use tokio_util::io::ReaderStream;

use super::super::answer::{Body, answer, full, text};

const PLAIN: &str = "text/plain; charset=utf-8";
/// So many bytes tell a text from other files.
const SNIFFED_BYTES: u64 = 512;

pub(super) async fn serve(folder: &Path, path: &str) -> Response<Body> {
    let (root, wanted, is_folder_path) = (folder.to_owned(), path.to_owned(), path.ends_with('/'));
    let found = tokio::task::spawn_blocking(move || look(&root, &wanted)).await;
    match found.map_err(io::Error::other).flatten() {
        Ok(Found::Folder(_)) if !path.is_empty() && !is_folder_path => redirect(path),
        Ok(Found::Folder(entries)) => {
            answer(StatusCode::OK, "text/html; charset=utf-8", full(page(&entries).into()))
        }
        Ok(Found::File { .. }) if is_folder_path => not_found(),
        Ok(Found::File { file, bytes, is_text }) => {
            // A log grows: the answer has what it had.
            let file = tokio::fs::File::from_std(file).take(bytes);
            let frames = ReaderStream::new(file).map(|piece| piece.map(Frame::data));
            let kind = if is_text { PLAIN } else { "application/octet-stream" };
            let mut response = answer(StatusCode::OK, kind, BodyExt::boxed(StreamBody::new(frames)));
            response.headers_mut().insert(header::CONTENT_LENGTH, bytes.into());
            response
        }
        Err(error) if error.kind() == ErrorKind::NotFound => not_found(),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            text(StatusCode::FORBIDDEN, "403 Forbidden")
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("read {path}: {error}")),
    }
}

/// The first of these files that exists, and its size.
pub(super) fn first(folder: &Path, names: &[String]) -> io::Result<(File, u64)> {
    for name in names {
        match look(folder, name) {
            Ok(Found::File { file, bytes, .. }) => return Ok((file, bytes)),
            Ok(Found::Folder(_)) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Err(ErrorKind::NotFound.into())
}

enum Found {
    File {
        file: File,
        bytes: u64,
        is_text: bool,
    },
    /// The names, those of folders with a slash.
    Folder(Vec<String>),
}

fn look(folder: &Path, path: &str) -> io::Result<Found> {
    let root = folder.canonicalize()?;
    let path = root.join(below(path)?);
    // A pipe without a writer does not wait.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let mut file = File::from(rustix::fs::open(&path, flags, Mode::empty())?);
    let opened = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    if !opened.starts_with(&root) {
        return Err(ErrorKind::NotFound.into());
    }
    let facts = file.metadata()?;
    if facts.is_dir() {
        return entries(&opened).map(Found::Folder);
    }
    if !facts.is_file() {
        return Err(ErrorKind::NotFound.into());
    }
    let mut start = Vec::new();
    (&mut file).take(SNIFFED_BYTES).read_to_end(&mut start)?;
    io::Seek::rewind(&mut file)?;
    Ok(Found::File { file, bytes: facts.len(), is_text: !start.contains(&0) })
}

/// The path without a leading slash and `.`; `..` leads nowhere.
fn below(path: &str) -> io::Result<PathBuf> {
    let mut clean = PathBuf::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(ErrorKind::NotFound.into()),
        }
    }
    Ok(clean)
}

fn entries(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        names.push(if is_folder { name + "/" } else { name });
    }
    names.sort();
    Ok(names)
}

/// A folder as Go's file server shows it.
fn page(entries: &[String]) -> String {
    let mut out =
        "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n".to_owned();
    for name in entries {
        out.push_str(&format!("<a href=\"{}\">{}</a>\n", link(name), escaped(name)));
    }
    out + "</pre>\n"
}

/// The name as a relative URL. One with a colon would read as a scheme.
fn link(name: &str) -> String {
    let mut out = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' | b':' | b'@' => {
                out.push(char::from(byte));
            }
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    let first = out.split('/').next().unwrap_or_default();
    if first.contains(':') { format!("./{out}") } else { out }
}

fn escaped(name: &str) -> String {
    name.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&#34;")
        .replace('\'', "&#39;")
}

fn not_found() -> Response<Body> {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// To the folder's own path, so that the links of its page lead below it.
fn redirect(path: &str) -> Response<Body> {
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let mut response = text(StatusCode::MOVED_PERMANENTLY, "");
    let to = HeaderValue::from_str(&format!("{}/", link(name)));
    response.headers_mut().extend(to.ok().map(|to| (header::LOCATION, to)));
    response
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn tree() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("folder");
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(at("log/pods")).expect("folders");
        std::fs::write(at("log/pods/0.log"), "a line\n").expect("file");
        std::fs::write(at("log/a:b<c>"), [0, 1]).expect("file");
        std::fs::write(at("secret"), "secret").expect("file");
        symlink(at("log/pods/0.log"), at("log/inside")).expect("link");
        symlink(at("secret"), at("log/outside")).expect("link");
        symlink("..", at("log/up")).expect("link");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            at("log/pipe"),
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .expect("pipe");
        folder
    }

    async fn get(folder: &Path, path: &str) -> (u16, String) {
        let response = serve(&folder.join("log"), path).await;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    #[tokio::test]
    async fn only_what_is_below_the_folder_is_served() {
        let tree = tree();
        for (path, wanted) in [
            ("pods/0.log", (200, "a line\n")),
            ("/pods//./0.log", (200, "a line\n")),
            ("inside", (200, "a line\n")),
            ("outside", (404, "404 page not found\n")),
            ("up/secret", (404, "404 page not found\n")),
            ("../secret", (404, "404 page not found\n")),
            ("pipe", (404, "404 page not found\n")),
            ("pods/0.log/", (404, "404 page not found\n")),
            ("none", (404, "404 page not found\n")),
            ("pods", (301, "")),
        ] {
            let (status, text) = get(tree.path(), path).await;
            assert_eq!((status, text.as_str()), wanted, "{path}");
        }
    }

    #[tokio::test]
    async fn a_folder_is_a_page_of_links() {
        let tree = tree();
        let (status, page) = get(tree.path(), "").await;
        assert_eq!(status, 200);
        for line in [
            "<a href=\"pods/\">pods/</a>\n",
            "<a href=\"./a:b%3Cc%3E\">a:b&lt;c&gt;</a>\n",
            "<a href=\"inside\">inside</a>\n",
        ] {
            assert!(page.contains(line), "{line} in {page}");
        }
    }
}
