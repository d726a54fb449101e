//! The threads that decode, verify and write, and their two queues.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use manifests::release::Release;
use payload::apply::{Begun, Blobs, Codec, Decoder, Refusal};
use payload::format::{Frame, FrameTable, Kind};
use payload::limits::MAX_OUTPUT_BYTES;
use payload::window::{Verified, WrongWindow};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::aside;
use super::error::InstallError;
use super::ground::{Ground, Running};
use crate::decoder::{Confined, DecoderError, Program};
use crate::fetch::SourceId;
use crate::slot::buffer::AlignedBuf;
use crate::slot::{InactiveSlot, SlotError, VerifiedBytes};

/// Which of the payloads a frame is of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Which {
    /// The one that is followed.
    Followed,
    /// The full one beside it, for what that cannot make.
    Beside,
}

/// A frame, by the payload it is of and its place there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Task {
    pub(super) which: Which,
    pub(super) frame: u32,
}

/// A frame to be made.
pub(super) struct Order {
    pub(super) task: Task,
    /// The table it stands in.
    pub(super) table: Arc<FrameTable>,
    /// The running slot, where the table leans on it.
    pub(super) running: Option<Arc<Running>>,
    /// Runs of its windows that are missing: only these are written.
    pub(super) wanted: Vec<Range<u32>>,
    /// Its blob.
    pub(super) blob: Vec<u8>,
    /// Who gave the blob; nobody, if it has none.
    pub(super) source: Option<SourceId>,
}

/// A frame that was made, or not.
pub(super) struct Made {
    pub(super) task: Task,
    pub(super) source: Option<SourceId>,
    /// The blob's memory, to be used again.
    pub(super) blob: Vec<u8>,
    /// The windows that were ordered.
    pub(super) wanted: Vec<Range<u32>>,
    pub(super) outcome: Outcome,
}

/// What became of a frame.
pub(super) enum Outcome {
    /// All of its windows are written.
    Written,
    /// Its blob does not decode.
    Undecodable(payload::Error),
    /// Some windows differ from the record; the others are written.
    Differs(Vec<WrongWindow>),
    /// The slot does not take it.
    Failed(SlotError),
    /// There is no process to decode it.
    NotDecoded(DecoderError),
    /// The payload or the record has no such frame.
    NoFrame,
    /// The thread panicked over it.
    Died,
}

/// Where blobs are decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoding {
    /// In a confined process for each thread (design 11.15).
    Confined(Program),
    /// In this process: for measuring what the other way costs.
    Here,
}

enum AnyBlobs {
    Confined(Confined),
    Here(Codec),
}

impl AnyBlobs {
    fn start(decoding: &Decoding, stopping: &Arc<AtomicBool>) -> Result<Self, InstallError> {
        match decoding {
            // For a payload that has no blob to decode no process is started.
            Decoding::Confined(program) => Ok(Self::Confined(Confined::new(program.clone()).stopped_by(Arc::clone(stopping)))),
            Decoding::Here => Codec::new().map(Self::Here).map_err(InstallError::Decoder),
        }
    }

    /// What a blob has done to whoever decoded it, it does to no other.
    fn distrust(&mut self) {
        if let Self::Confined(process) = self {
            process.distrust();
        }
    }

    const fn take_failure(&mut self) -> Option<DecoderError> {
        match self {
            Self::Confined(process) => process.take_failure(),
            Self::Here(_) => None,
        }
    }
}

impl Blobs for AnyBlobs {
    fn lean_on(&mut self, at: usize, bytes: &[u8]) -> Result<(), Refusal> {
        match self {
            Self::Confined(process) => process.lean_on(at, bytes),
            Self::Here(codec) => codec.lean_on(at, bytes),
        }
    }

    fn decode(&mut self, kind: Kind, blob: &[u8], leans_on: usize, out: &mut [u8]) -> Result<(), Refusal> {
        match self {
            Self::Confined(process) => process.decode(kind, blob, leans_on, out),
            Self::Here(codec) => Blobs::decode(codec, kind, blob, leans_on, out),
        }
    }

    fn begin(&mut self, kind: Kind, blob: &[u8], leans_on: usize, output_len: usize) -> Result<bool, Refusal> {
        match self {
            Self::Confined(process) => process.begin(kind, blob, leans_on, output_len),
            Self::Here(codec) => codec.begin(kind, blob, leans_on, output_len),
        }
    }

    fn finish(&mut self, out: &mut [u8]) -> Result<(), Refusal> {
        match self {
            Self::Confined(process) => process.finish(out),
            Self::Here(codec) => codec.finish(out),
        }
    }
}

/// The one implementation there is: [`Verified::check`], the comparison with the record, is the only maker of a [`Verified`].
impl<B: AsRef<[u8]>> VerifiedBytes for Verified<B> {
    fn image_offset(&self) -> u64 {
        Self::image_offset(self)
    }

    fn bytes(&self) -> &[u8] {
        Self::bytes(self)
    }
}

/// The threads. Dropping it lets them end by themselves, [`Pool::stop`] waits for that.
pub(super) struct Pool {
    orders: Option<Sender<Order>>,
    made: UnboundedReceiver<Made>,
    stopping: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    pub(super) fn start(
        threads: usize,
        decoding: &Decoding,
        release: &Arc<Release>,
        slot: &Arc<InactiveSlot>,
    ) -> Result<Self, InstallError> {
        let (orders, receiver) = channel();
        let (told, made) = unbounded_channel();
        let receiver = Arc::new(Mutex::new(receiver));
        let stopping = Arc::new(AtomicBool::new(false));
        let mut pool = Self { orders: Some(orders), made, stopping: Arc::clone(&stopping), threads: Vec::new() };
        for number in 0..threads {
            let worker = Worker {
                orders: Arc::clone(&receiver),
                told: told.clone(),
                stopping: Arc::clone(&stopping),
                release: Arc::clone(release),
                slot: Arc::clone(slot),
                decoder: Decoder::with(AnyBlobs::start(decoding, &stopping)?),
                ground: Ground::new(release, slot, &stopping),
                output: AlignedBuf::zeroed(usize::try_from(MAX_OUTPUT_BYTES).unwrap_or(usize::MAX)),
            };
            let thread = std::thread::Builder::new().name(format!("install-{number}")).spawn(move || worker.run());
            pool.threads.push(thread.map_err(|_no_thread| InstallError::Broken("a thread could not be started"))?);
        }
        Ok(pool)
    }

    /// Hands a frame over. Never waits: how many are in flight is the caller's to bound.
    pub(super) fn order(&self, order: Order) -> Result<(), InstallError> {
        let orders = self.orders.as_ref().ok_or(InstallError::Broken("the threads were stopped"))?;
        orders.send(order).map_err(|_all_ended| InstallError::Broken("the threads ended early"))
    }

    /// The next frame that was made.
    pub(super) async fn made(&mut self) -> Result<Made, InstallError> {
        self.made.recv().await.ok_or(InstallError::Broken("the threads ended early"))
    }

    /// A frame that was made already.
    pub(super) fn made_already(&mut self) -> Option<Made> {
        self.made.try_recv().ok()
    }

    /// Ends the threads, each after the frame it is at, and waits for them.
    pub(super) async fn stop(mut self) {
        self.tell_to_stop();
        let threads = std::mem::take(&mut self.threads);
        let joined = aside(move || threads.into_iter().map(JoinHandle::join).all(|ended| ended.is_ok())).await;
        if !matches!(joined, Ok(true)) {
            tracing::error!("a thread of the install died");
        }
    }

    /// Set when nothing more is to be done.
    pub(super) fn stopping(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stopping)
    }

    fn tell_to_stop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.orders = None;
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.tell_to_stop();
    }
}

struct Worker {
    orders: Arc<Mutex<Receiver<Order>>>,
    told: UnboundedSender<Made>,
    stopping: Arc<AtomicBool>,
    release: Arc<Release>,
    slot: Arc<InactiveSlot>,
    decoder: Decoder<AnyBlobs>,
    ground: Ground,
    /// A disk writes from it directly.
    output: AlignedBuf,
}

/// An order, and how far it is, or why it goes no further.
type Taken = (Order, Result<Begun, Outcome>);

impl Worker {
    fn run(mut self) {
        let mut ahead: Option<Taken> = None;
        loop {
            let (order, begun) = match ahead.take() {
                Some(_) if self.stopping.load(Ordering::Relaxed) => return,
                Some((order, begun)) => (order, Some(begun)),
                None => match self.next() {
                    Some(order) => (order, None),
                    None => return,
                },
            };
            // Whatever a panic leaves half-done in here is never looked at again: the install ends over it.
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                let begun = begun.unwrap_or_else(|| self.begin(&order));
                self.make(&order, begun, &mut ahead)
            }));
            let outcome = outcome.unwrap_or(Outcome::Died);
            let Order { task, blob, source, wanted, .. } = order;
            if self.told.send(Made { task, source, blob, wanted, outcome }).is_err() {
                return;
            }
        }
    }

    fn next(&self) -> Option<Order> {
        let order = self.orders.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()?;
        (!self.stopping.load(Ordering::Relaxed)).then_some(order)
    }

    /// An order that waits already. Where another thread waits for one, there is none.
    fn next_already(&self) -> Option<Order> {
        let order = self.orders.try_lock().ok()?.try_recv().ok()?;
        (!self.stopping.load(Ordering::Relaxed)).then_some(order)
    }

    fn begin(&mut self, order: &Order) -> Result<Begun, Outcome> {
        let Some(frame) = order.table.frame(order.task.frame) else { return Err(Outcome::NoFrame) };
        self.ground.running.clone_from(&order.running);
        self.decoder.begin(&frame, &order.blob, &self.ground).map_err(|error| self.refused(error))
    }

    /// Makes a frame. While it is verified and written, the blob of the next one is decoded already, if one waits.
    fn make(&mut self, order: &Order, begun: Result<Begun, Outcome>, ahead: &mut Option<Taken>) -> Outcome {
        let Some(frame) = order.table.frame(order.task.frame) else { return Outcome::NoFrame };
        let decoded = begun.and_then(|begun| {
            let out = self.output.as_mut_slice().get_mut(..frame.output_len()).unwrap_or_default();
            self.decoder.finish(begun, &frame, &order.blob, &self.ground, out).map_err(|error| self.refused(error))
        });
        *ahead = self.next_already().map(|next| {
            let begun = self.begin(&next);
            (next, begun)
        });
        let outcome = decoded.map_or_else(|outcome| outcome, |()| self.write(&frame, &order.wanted));
        if matches!(outcome, Outcome::Differs(_)) {
            self.decoder.blobs().distrust();
            if let Some((next, begun)) = ahead {
                *begun = self.begin(next);
            }
        }
        outcome
    }

    /// Why a frame cannot be decoded.
    fn refused(&mut self, error: payload::Error) -> Outcome {
        match self.decoder.blobs().take_failure() {
            Some(failure) => Outcome::NotDecoded(failure),
            None => Outcome::Undecodable(error),
        }
    }

    /// Writes those of the `wanted` windows of `frame` that are right.
    fn write(&mut self, frame: &Frame<'_>, wanted: &[Range<u32>]) -> Outcome {
        let Some(image) = self.release.record().images.get(frame.image()) else { return Outcome::NoFrame };
        let (slot, window_size) = (&self.slot, image.table.window_size());
        let write = |verified: &Verified<&[u8]>| {
            let mut parts = wanted.iter().filter_map(|run| verified.part(run, window_size));
            parts.try_for_each(|part| slot.write_window(&image.name, &part))
        };
        match Verified::check(&self.release, frame.image(), frame.windows(), self.output.as_slice()) {
            Ok(verified) => write(&verified).map_or_else(Outcome::Failed, |()| Outcome::Written),
            Err(mismatch) => match mismatch.right().iter().try_for_each(write) {
                Ok(()) => Outcome::Differs(mismatch.wrong().to_vec()),
                Err(error) => Outcome::Failed(error),
            },
        }
    }
}

/// Of the windows that were ordered, those that an outcome leaves right.
pub(super) fn right_windows(wanted: &[Range<u32>], outcome: &Outcome) -> Vec<u32> {
    let wanted = wanted.iter().cloned().flatten();
    match outcome {
        Outcome::Written => wanted.collect(),
        Outcome::Differs(wrong) => wanted.filter(|window| wrong.iter().all(|wrong| wrong.window != *window)).collect(),
        Outcome::Undecodable(_) | Outcome::Failed(_) | Outcome::NotDecoded(_) | Outcome::NoFrame | Outcome::Died => Vec::new(),
    }
}
