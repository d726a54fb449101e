//! Carries a plan out on a socket.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc::linger;
use nix::sys::sendfile::sendfile;
use nix::sys::socket::{setsockopt, sockopt};

use crate::http::{Request, format_head};
use crate::mock::Stop;
use crate::plan::{End, GZIP_BLOCK_BYTES, Plan, Segment};
use crate::record::Progress;

/// Bytes given to the kernel at a time; progress is seen this often.
const PIECE_BYTES: u64 = 8 << 20;
/// Buffer for what the kernel cannot copy by itself.
const BUFFER_BYTES: usize = 256 << 10;

/// A connection on which a plan is carried out.
pub(crate) struct Sender<'c> {
    pub(crate) stream: &'c TcpStream,
    pub(crate) progress: &'c Progress,
    pub(crate) stop: &'c Stop,
}

impl Sender<'_> {
    /// Sends the answer; true if the connection can take another request.
    pub(crate) fn send(&self, plan: &Plan, request: &Request) -> io::Result<bool> {
        if let Some(fault) = plan.fault {
            self.progress.strike(fault);
        }
        if self.stop.wait(plan.delay) {
            return Ok(false);
        }
        let keep_alive = plan.end == End::KeepAlive && request.keep_alive;
        self.send_head(plan, keep_alive || plan.end == End::Stall)?;
        if !request.is_head() {
            plan.body.iter().try_for_each(|segment| self.send_segment(segment))?;
            if let Some(drip) = &plan.drip {
                drip.body.iter().try_for_each(|segment| self.drip(segment, drip.bytes_per_s))?;
            }
        }
        match plan.end {
            End::KeepAlive | End::Close => {}
            End::Reset => self.reset()?,
            End::Stall => self.stall(),
        }
        Ok(keep_alive)
    }

    /// Sends what no HTTP client can read.
    pub(crate) fn send_noise(&self) -> io::Result<()> {
        self.progress.strike("not_http");
        self.send_segment(&Segment::Noise { length: 512 })
    }

    /// Closes the connection such that the client sees the end of the stream, and not a reset because of bytes it sent unread.
    pub(crate) fn close(&self) {
        const PATIENCE: Duration = Duration::from_millis(200);
        const MOST_BYTES: u64 = 1 << 20;
        if self.stream.shutdown(Shutdown::Write).is_ok() && self.stream.set_read_timeout(Some(PATIENCE)).is_ok() {
            // Whatever comes of it, the connection ends here.
            let _ = io::copy(&mut self.stream.take(MOST_BYTES), &mut io::sink());
        }
    }

    fn send_head(&self, plan: &Plan, stays_open: bool) -> io::Result<()> {
        let mut headers = plan.headers.clone();
        headers.push(("Content-Length", plan.declared_length.to_string()));
        headers.push(("Connection", if stays_open { "keep-alive" } else { "close" }.to_owned()));
        let mut stream = self.stream;
        stream.write_all(format_head(plan.status, &headers).as_bytes())?;
        self.progress.begin(plan.status);
        Ok(())
    }

    fn send_segment(&self, segment: &Segment) -> io::Result<()> {
        match segment {
            Segment::Bytes(bytes) => self.write(bytes),
            Segment::File { file, start, length } => self.send_file(file, *start, *length),
            generated => self.pump(&mut reader(generated)?, generated.length()),
        }
    }

    /// Lets the kernel copy from the file into the socket: no buffer here, and what is counted is what it took.
    fn send_file(&self, file: &File, start: u64, length: u64) -> io::Result<()> {
        let mut offset = i64::try_from(start).map_err(io::Error::other)?;
        let mut left = length;
        while left > 0 {
            let piece = usize::try_from(left.min(PIECE_BYTES)).map_err(io::Error::other)?;
            match sendfile(self.stream, file, Some(&mut offset), piece) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter while it was sent")),
                Ok(sent) => {
                    self.progress.add(sent as u64);
                    left -= sent as u64;
                }
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn pump(&self, from: &mut dyn Read, length: u64) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut left = length;
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            from.read_exact(&mut buffer[..wanted])?;
            self.write(&buffer[..wanted])?;
            left -= wanted as u64;
        }
        Ok(())
    }

    /// Sends a little ten times a second, or a byte at a time if that is too much.
    fn drip(&self, segment: &Segment, bytes_per_s: u64) -> io::Result<()> {
        let drop_bytes = (bytes_per_s / 10).clamp(1, BUFFER_BYTES as u64);
        let pause = Duration::from_nanos(drop_bytes.saturating_mul(1_000_000_000) / bytes_per_s);
        let mut from = reader(segment)?;
        let mut left = segment.length();
        while left > 0 {
            let piece = left.min(drop_bytes);
            self.pump(&mut from, piece)?;
            left -= piece;
            if self.stop.wait(pause) {
                break;
            }
        }
        Ok(())
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut stream = self.stream;
        let mut rest = bytes;
        while !rest.is_empty() {
            match stream.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.progress.add(written as u64);
                    rest = &rest[written..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Makes the close to come a reset, after a moment in which what was sent can arrive.
    fn reset(&self) -> io::Result<()> {
        const MOMENT: Duration = Duration::from_millis(50);
        self.stop.wait(MOMENT);
        set_reset(self.stream)
    }

    /// Waits until the client has had enough, or the server stops.
    pub(crate) fn stall(&self) {
        const GLANCE: Duration = Duration::from_millis(100);
        if self.stream.set_read_timeout(Some(GLANCE)).is_err() {
            return;
        }
        while !self.stop.wait(Duration::from_millis(20)) {
            match self.stream.peek(&mut [0]) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if is_passing(&error) => {}
                Err(_) => return,
            }
        }
    }
}

/// Whether an error only says that nothing has come yet.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

/// Makes the close of a connection a reset.
pub(crate) fn set_reset(stream: &TcpStream) -> io::Result<()> {
    setsockopt(stream, sockopt::Linger, &linger { l_onoff: 1, l_linger: 0 }).map_err(io::Error::from)
}

/// The bytes of a segment.
fn reader(segment: &Segment) -> io::Result<Box<dyn Read + '_>> {
    Ok(match segment {
        Segment::Bytes(bytes) => Box::new(bytes.as_slice()),
        Segment::File { file, start, length } => {
            let mut file = file.as_ref();
            file.seek(SeekFrom::Start(*start))?;
            Box::new(file.take(*length))
        }
        Segment::Repeat { pattern, length } => Box::new(Repeat { pattern, at: 0 }.take(*length)),
        Segment::Noise { length } => Box::new(Noise { state: 0x9E37_79B9_7F4A_7C15 }.take(*length)),
        Segment::Gzip(inner) => Box::new(Gzip::new(inner)?),
    })
}

/// A pattern without end.
struct Repeat<'p> {
    pattern: &'p [u8],
    at: usize,
}

impl Read for Repeat<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        for byte in buffer.iter_mut() {
            *byte = self.pattern[self.at];
            self.at = (self.at + 1) % self.pattern.len();
        }
        Ok(buffer.len())
    }
}

/// Noise without end (xorshift), the same every time.
struct Noise {
    state: u64,
}

impl Read for Noise {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        for chunk in buffer.chunks_mut(8) {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            chunk.copy_from_slice(&self.state.to_le_bytes()[..chunk.len()]);
        }
        Ok(buffer.len())
    }
}

/// A gzip stream (RFC 1952) of uncompressed blocks: it costs nothing, and a client that decompresses unasked gets the file.
struct Gzip<'s> {
    inner: Box<dyn Read + 's>,
    left: u64,
    total: u64,
    crc: crc32fast::Hasher,
    ready: io::Cursor<Vec<u8>>,
    is_done: bool,
}

impl<'s> Gzip<'s> {
    fn new(segments: &'s [Segment]) -> io::Result<Self> {
        const HEADER: [u8; 10] = [0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 255];
        let readers = segments.iter().map(reader).collect::<io::Result<Vec<_>>>()?;
        let total = segments.iter().map(Segment::length).sum();
        Ok(Self {
            inner: readers.into_iter().fold(Box::new(io::empty()), |before, next| Box::new(before.chain(next))),
            left: total,
            total,
            crc: crc32fast::Hasher::new(),
            ready: io::Cursor::new(HEADER.to_vec()),
            is_done: false,
        })
    }

    /// The next block; the last one brings the trailer.
    fn next_block(&mut self) -> io::Result<Vec<u8>> {
        let length = u16::try_from(self.left.min(GZIP_BLOCK_BYTES)).map_err(io::Error::other)?;
        self.left -= u64::from(length);
        let mut block = vec![u8::from(self.left == 0)];
        block.extend(length.to_le_bytes());
        block.extend((!length).to_le_bytes());
        let start = block.len();
        block.resize(start + usize::from(length), 0);
        self.inner.read_exact(&mut block[start..])?;
        self.crc.update(&block[start..]);
        if self.left == 0 {
            self.is_done = true;
            block.extend(self.crc.clone().finalize().to_le_bytes());
            // The trailer has the length modulo 2^32.
            block.extend(&self.total.to_le_bytes()[..4]);
        }
        Ok(block)
    }
}

impl Read for Gzip<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut read = self.ready.read(buffer)?;
        if read == 0 && !self.is_done {
            self.ready = io::Cursor::new(self.next_block()?);
            read = self.ready.read(buffer)?;
        }
        Ok(read)
    }
}
