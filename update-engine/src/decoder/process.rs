//! The process: confined first, then one blob after the other.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, RawFd};
use std::process::ExitCode;

use payload::apply::{Codec, Refusal};
use payload::format::Kind;

use super::confine::{confine, decoding_user};
use super::memory::Shared;
use super::{BLOB_AT, MAX_WORDS, NOT_READY, OUTPUT_AT, READY, Request};

/// Decodes for the daemon that has started this process, until that closes the socket. Standard input is the socket, standard output the shared
/// memory.
pub fn run() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody reads words here: the daemon sees that the process has ended.
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve() -> io::Result<()> {
    let mut shared = Shared::of(io::stdout().as_fd())?;
    let mut codec = Codec::new().map_err(io::Error::other)?;
    let mut socket = Socket(io::stdin());
    // Who that is may be asked of files and services, which stay open.
    let user = decoding_user();
    if let Err(error) = close_all_but_standard().and_then(|()| confine(user)) {
        socket.write_all(&[NOT_READY])?;
        return socket.write_all(&words_of(&error.to_string()));
    }
    socket.write_all(&[READY])?;
    let mut request = [0; Request::BYTES];
    loop {
        match socket.read_exact(&mut request) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
        let answer = decode(&mut codec, &mut shared, Request::of_bytes(request));
        let words = answer.err().map(|refusal| refusal.to_string());
        socket.write_all(&reply(words.as_deref()))?;
    }
}

/// What the daemon holds open closes with the start of this program; what its own starter has left open for it does not.
fn close_all_but_standard() -> io::Result<()> {
    let open: Vec<RawFd> =
        std::fs::read_dir("/proc/self/fd")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    for descriptor in open.into_iter().filter(|descriptor| *descriptor > 2) {
        // The folder's own is closed already.
        let _closed = nix::unistd::close(descriptor);
    }
    Ok(())
}

/// Standard input, which is a socket.
struct Socket(io::Stdin);

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        nix::unistd::read(&self.0, buffer).map_err(io::Error::from)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        nix::unistd::write(&self.0, bytes).map_err(io::Error::from)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn decode(codec: &mut Codec, shared: &mut Shared, request: Request) -> Result<(), Refusal> {
    let length = |bytes: u32| usize::try_from(bytes).unwrap_or(usize::MAX);
    let (blob, leans_on, output) = (length(request.blob), length(request.leans_on), length(request.output));
    let parts = shared.parts((0, leans_on), (BLOB_AT, blob), (OUTPUT_AT, output));
    let (leans_on, blob, output) =
        parts.ok_or_else(|| Refusal::new("request", "lengths within the shared memory", "longer ones"))?;
    codec.decode(Kind::from_number(request.kind), blob, leans_on, output)
}

fn reply(words: Option<&str>) -> Vec<u8> {
    let words = words.unwrap_or_default();
    [&[u8::from(!words.is_empty())][..], &words_of(words)].concat()
}

/// Words, and their length before them.
fn words_of(words: &str) -> Vec<u8> {
    let words = &words.as_bytes()[..words.len().min(MAX_WORDS)];
    let length = u16::try_from(words.len()).unwrap_or(0);
    [&length.to_le_bytes()[..], words].concat()
}
