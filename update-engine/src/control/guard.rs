//! A connection that cannot be held open for nothing.
//!
//! One rule covers the idle, the slow sender of a request and the reader that does not read: if no byte could be *written* for
//! [`Timing::stalled`], the connection is closed. A quiet event stream writes a comment well within that time.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::time::{Instant, Sleep};

use super::admission::Place;

/// What a connection is held to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    /// Longest time without a byte written.
    pub(super) stalled: Duration,
    /// Most bytes read between two writes: a request, whatever it is, is no longer than that.
    pub(super) request_bytes: usize,
}

/// A connection and its place.
pub(super) struct Guarded {
    stream: UnixStream,
    timing: Timing,
    stalled: Pin<Box<Sleep>>,
    unanswered_bytes: usize,
    _place: Place,
}

impl Guarded {
    pub(super) fn new(stream: UnixStream, place: Place, timing: Timing) -> Self {
        let stalled = Box::pin(tokio::time::sleep(timing.stalled));
        Self { stream, timing, stalled, unanswered_bytes: 0, _place: place }
    }

    /// Pending, or an error once nothing was written for too long.
    fn still_pending<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        match self.stalled.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }

    fn wrote(&mut self) {
        self.unanswered_bytes = 0;
        self.stalled.as_mut().reset(Instant::now() + self.timing.stalled);
    }
}

impl AsyncRead for Guarded {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.unanswered_bytes > self.timing.request_bytes {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "the request is too long")));
        }
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Pending => self.still_pending(context),
            Poll::Ready(result) => {
                self.unanswered_bytes += buffer.filled().len() - before;
                Poll::Ready(result)
            }
        }
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(context, bytes) {
            Poll::Pending => self.still_pending(context),
            Poll::Ready(result) => {
                self.wrote();
                Poll::Ready(result)
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write_vectored(context, slices) {
            Poll::Pending => self.still_pending(context),
            Poll::Ready(result) => {
                self.wrote();
                Poll::Ready(result)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
