//! HTTP/1.1 requests off a socket, and the head of an answer as text.

use std::io::{self, Read, Write};
use std::net::TcpStream;

/// Longest head of a request, in bytes.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// Most header fields of a request.
const MAX_HEADERS: usize = 100;
/// Longest body of a request, in bytes: a script put at run time is the longest there is.
const MAX_BODY_BYTES: usize = 16 << 20;

/// A request as it came.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    /// In order, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Whether the client wants another answer on this connection.
    pub(crate) keep_alive: bool,
}

impl Request {
    /// The first value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The target without its query, and without the host that a client of a proxy puts before it.
    pub(crate) fn path(&self) -> &str {
        let target = self.target.split('?').next().unwrap_or_default();
        match target.split_once("://") {
            Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
            None => target,
        }
    }

    pub(crate) fn is_head(&self) -> bool {
        self.method == "HEAD"
    }
}

/// Why no request came.
#[derive(Debug)]
pub(crate) enum NoRequest {
    /// The client is done, or gone.
    Closed,
    /// The client sent something else; to be answered with this status and text.
    Bad(u16, &'static str),
}

impl From<io::Error> for NoRequest {
    fn from(_: io::Error) -> Self {
        Self::Closed
    }
}

/// Reads requests off one connection.
pub(crate) struct Requests<'s> {
    stream: &'s TcpStream,
    /// Read and not yet used.
    pending: Vec<u8>,
}

impl<'s> Requests<'s> {
    pub(crate) fn new(stream: &'s TcpStream) -> Self {
        Self { stream, pending: Vec::new() }
    }

    /// The next request, body included.
    pub(crate) fn next(&mut self) -> Result<Request, NoRequest> {
        let mut request = loop {
            let parsed = parse_head(&self.pending)?;
            if parsed.as_ref().map_or(self.pending.len(), |(_, used)| *used) > MAX_HEAD_BYTES {
                return Err(NoRequest::Bad(431, "expected a request head of at most 64 KiB"));
            }
            if let Some((request, used)) = parsed {
                self.pending.drain(..used);
                break request;
            }
            self.fill()?;
        };
        self.read_body(&mut request)?;
        Ok(request)
    }

    fn read_body(&mut self, request: &mut Request) -> Result<(), NoRequest> {
        let is_chunked = request.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
        let length = match request.header("content-length") {
            None => 0,
            Some(text) => text.parse().map_err(|_| NoRequest::Bad(400, "expected Content-Length to be a number"))?,
        };
        if length > MAX_BODY_BYTES {
            return Err(NoRequest::Bad(413, "expected a request body of at most 16 MiB"));
        }
        if (is_chunked || length > 0) && request.header("expect").is_some() {
            self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        request.body = if is_chunked { self.read_chunks()? } else { self.take(length)? };
        Ok(())
    }

    fn read_chunks(&mut self) -> Result<Vec<u8>, NoRequest> {
        let mut body = Vec::new();
        loop {
            let line = self.take_line()?;
            let digits = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(digits, 16).map_err(|_| NoRequest::Bad(400, "expected the size of a chunk"))?;
            if size > MAX_BODY_BYTES - body.len() {
                return Err(NoRequest::Bad(413, "expected a request body of at most 16 MiB"));
            }
            if size == 0 {
                break;
            }
            body.extend(self.take(size)?);
            self.take_line()?;
        }
        while !self.take_line()?.is_empty() {}
        Ok(body)
    }

    fn take(&mut self, length: usize) -> Result<Vec<u8>, NoRequest> {
        while self.pending.len() < length {
            self.fill()?;
        }
        Ok(self.pending.drain(..length).collect())
    }

    fn take_line(&mut self) -> Result<String, NoRequest> {
        const MAX_LINE_BYTES: usize = 4096;
        loop {
            if let Some(end) = self.pending.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            if self.pending.len() > MAX_LINE_BYTES {
                return Err(NoRequest::Bad(400, "expected the line of a chunk to end"));
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> Result<(), NoRequest> {
        let mut buffer = [0; 16 << 10];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(NoRequest::Closed),
                Ok(read) => {
                    self.pending.extend_from_slice(&buffer[..read]);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// A request without its body and the length of its head, or `None` if the head has not come whole.
fn parse_head(bytes: &[u8]) -> Result<Option<(Request, usize)>, NoRequest> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut fields);
    let used = match head.parse(bytes) {
        Ok(httparse::Status::Complete(used)) => used,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(NoRequest::Bad(431, "expected at most 100 header fields")),
        Err(_) => return Err(NoRequest::Bad(400, "expected an HTTP/1.1 request")),
    };
    let headers: Vec<_> = head
        .headers
        .iter()
        .map(|field| (field.name.to_ascii_lowercase(), String::from_utf8_lossy(field.value).into_owned()))
        .collect();
    let connection = headers.iter().find(|(name, _)| name == "connection").map(|(_, value)| value.to_ascii_lowercase());
    let keep_alive = match connection.as_deref() {
        Some(value) if value.contains("close") => false,
        Some(value) if value.contains("keep-alive") => true,
        _ => head.version == Some(1),
    };
    let request = Request {
        method: head.method.unwrap_or_default().to_owned(),
        target: head.path.unwrap_or_default().to_owned(),
        headers,
        body: Vec::new(),
        keep_alive,
    };
    Ok(Some((request, used)))
}

/// The head of an answer.
pub(crate) fn format_head(status: u16, headers: &[(&'static str, String)]) -> String {
    let mut head = format!("HTTP/1.1 {status} {}\r\n", reason(status));
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    head
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        413 => "Content Too Large",
        416 => "Range Not Satisfiable",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Scripted",
    }
}
