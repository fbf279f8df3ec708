//! The thread that reads a source ahead of the sender, into a ring of bounded size.
//!
//! Packets travel in batches whose buffers come back and are used again. A batch is handed over as soon as the sender has
//! nothing else to send, so that a slow source's packets do not wait for company; a fast one's fill up first. What is
//! preloaded is one batch that comes again and again, without a thread.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, TryRecvError, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::source::{Filled, Interrupt, PacketSource, SourceError, Tagged};
use crate::sys::precedence::give_way;
use crate::sys::prefetch;

/// Packets of a batch: a hand-over costs as much as some tens of packets.
const BATCH_PACKETS: usize = 64;
/// Bytes of a batch from which on it is full, so that the ring is bounded in bytes, too.
const BATCH_BYTES: usize = 1 << 18;
/// Batches that wait for the sender: 4096 packets, at most 16 MiB and the last packet of each.
const RING_BATCHES: usize = 64;
/// A source that filled the ring goes on when this many are left: to wake it costs the sender as much as some packets do.
const LOW_BATCHES: usize = RING_BATCHES / 2;
/// Longest sleep of a source that waits for that.
const FULL_PAUSE: Duration = Duration::from_millis(50);
/// Pause before a source that has nothing is asked again.
const IDLE_PAUSE: Duration = Duration::from_millis(1);
/// A source that took longer to find nothing was working, and is asked again at once.
const IDLE_QUICK: Duration = Duration::from_micros(500);
/// How long the end waits for a source that is inside a call.
const END_PATIENCE: Duration = Duration::from_millis(500);
/// Looks into the ring before the sender sleeps on it: some microseconds, less than a wake-up takes.
const SPINS: u32 = 200;

/// Most bytes of packets that are preloaded.
pub const PRELOAD_BYTES_MAX: usize = 1 << 30;

/// What the ring has for the sender.
pub(super) enum Fed {
    /// A packet, to be given back with [`Feed::give_back`].
    Packet(Tagged),
    /// Nothing at the moment.
    Empty,
    /// The source came to its end after this pass, which had packets or not.
    PassEnded { was_empty: bool },
    /// The source failed; nothing comes any more.
    Failed(SourceError),
    /// The thread is gone, and has not said why.
    Over,
}

enum Message {
    Batch(Batch),
    PassEnded { was_empty: bool },
    Failed(SourceError),
}

#[derive(Default)]
struct Batch {
    packets: Vec<Tagged>,
    len: usize,
    bytes: usize,
}

#[derive(Default)]
struct Shared {
    is_over: AtomicBool,
    queued: AtomicUsize,
    /// Whether the source sleeps until the ring is emptier.
    is_full: AtomicBool,
    interrupt: Mutex<Option<Interrupt>>,
}

/// The sender's end of the ring.
pub(super) struct Feed {
    messages: Receiver<Message>,
    waiting: Option<Message>,
    spare: Sender<Batch>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    current: Batch,
    at: usize,
    is_preloaded: bool,
}

impl Feed {
    /// Reads the whole of what `open` gives, to be sent from memory as often as is wanted. `stop` makes it shorter.
    ///
    /// # Errors
    /// The source's own, and [`SourceError::TooLarge`].
    pub(super) fn preloaded(
        mut open: impl FnMut() -> Result<Box<dyn PacketSource + Send>, SourceError>,
        stop: &AtomicBool,
    ) -> Result<Self, SourceError> {
        let mut source = open()?;
        let mut all = Batch::default();
        loop {
            let mut next = Tagged::default();
            match source.next_into(&mut next)? {
                Filled::Packet => {
                    all.bytes += next.packet.data.len();
                    if all.bytes > PRELOAD_BYTES_MAX {
                        return Err(SourceError::TooLarge { bytes_max: PRELOAD_BYTES_MAX });
                    }
                    all.packets.push(next);
                }
                Filled::Idle => {}
                Filled::End => break,
            }
            if stop.load(Relaxed) {
                break;
            }
        }
        all.len = all.packets.len();
        let ((_, messages), (spare, _)) = (sync_channel(0), channel());
        let shared = Arc::default();
        Ok(Self { messages, waiting: None, spare, shared, thread: None, current: all, at: 0, is_preloaded: true })
    }

    /// Starts to read what `open` gives, `passes` times (0 for ever). Where the sender paces, the source never interrupts it.
    pub(super) fn start<F>(open: F, passes: u64, is_paced: bool) -> std::io::Result<Self>
    where
        F: FnMut() -> Result<Box<dyn PacketSource + Send>, SourceError> + Send + 'static,
    {
        // Room for the ends of passes as well: what bounds the ring is the number of batches.
        let (sender, messages) = sync_channel(2 * RING_BATCHES + 2);
        let (spare, spares) = channel();
        let shared = Arc::new(Shared::default());
        let (batch, idle_since) = (Batch::default(), Instant::now());
        let reader = Reader { open, passes, sender, spares, shared: Arc::clone(&shared), batch, idle_since };
        let thread = std::thread::Builder::new().name("source".to_owned()).spawn(move || {
            if is_paced {
                give_way();
            }
            reader.run();
        })?;
        let current = Batch::default();
        Ok(Self { messages, waiting: None, spare, shared, thread: Some(thread), current, at: 0, is_preloaded: false })
    }

    /// What there is now.
    pub(super) fn next(&mut self) -> Fed {
        loop {
            if self.at < self.current.len {
                // Another core wrote it: on its way here while this packet is sent.
                if let Some(next) = self.current.packets[..self.current.len].get(self.at + 1) {
                    prefetch(&next.packet.data);
                }
                return Fed::Packet(std::mem::take(&mut self.current.packets[self.at]));
            }
            if self.is_preloaded {
                self.at = 0;
                return Fed::PassEnded { was_empty: self.current.len == 0 };
            }
            let message = match self.waiting.take().map_or_else(|| self.messages.try_recv(), Ok) {
                Ok(message) => message,
                Err(TryRecvError::Empty) => return Fed::Empty,
                Err(TryRecvError::Disconnected) => return Fed::Over,
            };
            match message {
                Message::Batch(batch) => {
                    self.took_one();
                    let used = std::mem::replace(&mut self.current, batch);
                    self.at = 0;
                    let _ = self.spare.send(used);
                }
                Message::PassEnded { was_empty } => return Fed::PassEnded { was_empty },
                Message::Failed(error) => return Fed::Failed(error),
            }
        }
    }

    /// Whether what is at hand is through, so that [`next`](Self::next) needs something new from the source.
    pub(super) fn is_at_end_of_batch(&self) -> bool {
        self.at >= self.current.len
    }

    /// Notes that a batch was taken, and wakes a source that waits for room when there is enough of it.
    fn took_one(&self) {
        // Both this and the source's look at `queued` come after a change that the other looks at: one of them sees it.
        let queued = self.shared.queued.fetch_sub(1, SeqCst) - 1;
        if queued <= LOW_BATCHES && self.shared.is_full.swap(false, SeqCst) {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }

    /// Gives back the buffer of the packet that [`next`](Self::next) gave last.
    pub(super) fn give_back(&mut self, packet: Tagged) {
        self.current.packets[self.at] = packet;
        self.at += 1;
    }

    /// Waits until there may be something, at most `longest`.
    pub(super) fn wait(&mut self, longest: Duration) {
        for _ in 0..SPINS {
            match self.messages.try_recv() {
                Ok(message) => {
                    self.waiting = Some(message);
                    return;
                }
                Err(TryRecvError::Empty) => std::hint::spin_loop(),
                Err(TryRecvError::Disconnected) => return,
            }
        }
        match self.messages.recv_timeout(longest) {
            Ok(message) => self.waiting = Some(message),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
    }
}

impl Drop for Feed {
    /// Ends the thread. One that is inside a call which cannot be interrupted (reading a pipe on which nothing comes) is left
    /// to end with the process.
    fn drop(&mut self) {
        self.shared.is_over.store(true, SeqCst);
        if let Some(interrupt) = self.shared.interrupt.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            interrupt();
        }
        self.wake();
        let Some(thread) = self.thread.take() else { return };
        let begun = Instant::now();
        while !thread.is_finished() && begun.elapsed() < END_PATIENCE {
            // Makes room for a reader that waits for it.
            let _ = self.messages.recv_timeout(IDLE_PAUSE);
        }
        if thread.is_finished() {
            let _ = thread.join();
        }
    }
}

/// The source's end of the ring.
struct Reader<F> {
    open: F,
    passes: u64,
    sender: SyncSender<Message>,
    spares: Receiver<Batch>,
    shared: Arc<Shared>,
    batch: Batch,
    /// When the source had nothing last, or began.
    idle_since: Instant,
}

/// Nobody takes packets any more.
struct Gone;

impl<F: FnMut() -> Result<Box<dyn PacketSource + Send>, SourceError>> Reader<F> {
    fn run(mut self) {
        let mut pass = 0;
        loop {
            let outcome = (self.open)().and_then(|mut source| self.pass(source.as_mut()));
            *self.shared.interrupt.lock().unwrap_or_else(PoisonError::into_inner) = None;
            let (message, is_last) = match outcome {
                Ok(Ok(was_empty)) => {
                    pass += 1;
                    (Message::PassEnded { was_empty }, was_empty || pass == self.passes)
                }
                Ok(Err(Gone)) => return,
                Err(error) => (Message::Failed(error), true),
            };
            // What was read before an error is sent first.
            if self.hand_over().is_err() || self.sender.send(message).is_err() || is_last {
                return;
            }
        }
    }

    /// Reads a source to its end; whether it had no packet.
    fn pass(&mut self, source: &mut dyn PacketSource) -> Result<Result<bool, Gone>, SourceError> {
        *self.shared.interrupt.lock().unwrap_or_else(PoisonError::into_inner) = source.interrupt();
        let mut was_empty = true;
        loop {
            if self.shared.is_over.load(Relaxed) {
                return Ok(Err(Gone));
            }
            if self.batch.len == self.batch.packets.len() {
                self.batch.packets.push(Tagged::default());
            }
            let handed_over = match source.next_into(&mut self.batch.packets[self.batch.len])? {
                Filled::Packet => {
                    was_empty = false;
                    self.batch.bytes += self.batch.packets[self.batch.len].packet.data.len();
                    self.batch.len += 1;
                    let is_full = self.batch.len == BATCH_PACKETS || self.batch.bytes >= BATCH_BYTES;
                    if is_full || self.shared.queued.load(Relaxed) == 0 { self.hand_over() } else { Ok(()) }
                }
                Filled::Idle => {
                    let handed_over = self.hand_over();
                    if self.idle_since.elapsed() < IDLE_QUICK {
                        std::thread::sleep(IDLE_PAUSE);
                    }
                    self.idle_since = Instant::now();
                    handed_over
                }
                Filled::End => return Ok(Ok(was_empty)),
            };
            if handed_over.is_err() {
                return Ok(Err(Gone));
            }
        }
    }

    fn hand_over(&mut self) -> Result<(), Gone> {
        if self.batch.len == 0 {
            return Ok(());
        }
        self.wait_for_room();
        let mut spare = self.spares.try_recv().unwrap_or_default();
        (spare.len, spare.bytes) = (0, 0);
        self.shared.queued.fetch_add(1, Relaxed);
        self.sender.send(Message::Batch(std::mem::replace(&mut self.batch, spare))).map_err(|_| Gone)
    }

    /// Where the ring is full, sleeps until half of it is empty.
    fn wait_for_room(&self) {
        if self.shared.queued.load(SeqCst) < RING_BATCHES {
            return;
        }
        while !self.shared.is_over.load(SeqCst) {
            self.shared.is_full.store(true, SeqCst);
            if self.shared.queued.load(SeqCst) <= LOW_BATCHES {
                break;
            }
            std::thread::park_timeout(FULL_PAUSE);
        }
    }
}
