//! Sums over several GPUs by NVIDIA's NCCL, which is loaded when it is asked for.
//!
//! Gradients are summed where they are, on the stream that computes them; the few numbers that the host wants go through a small
//! buffer. Of NCCL (`nccl.h` of version 2) six functions are needed. May use unsafe code: calls into the library.

use std::ffi::{CStr, c_char, c_int, c_void};

use libloading::Library;

use super::CudaError;
use super::gpu::{Gpu, Number, Span};
use crate::device::DeviceFailure;
use crate::train::AllReduce;

/// Where the library is looked for: NVIDIA's packages and wheels have the first, toolkits for development both.
const NAMES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];
/// `ncclSum`.
const SUM: c_int = 0;

/// What the first process tells the others, so that they find one another.
pub type NcclId = [u8; 128];

/// `ncclUniqueId`.
#[repr(C)]
#[derive(Clone, Copy)]
struct UniqueId([c_char; 128]);

type Comm = *mut c_void;

/// The library's functions.
struct Api {
    get_unique_id: unsafe extern "C" fn(*mut UniqueId) -> c_int,
    comm_init_rank: unsafe extern "C" fn(*mut Comm, c_int, UniqueId, c_int) -> c_int,
    all_reduce: unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Comm, *mut c_void) -> c_int,
    comm_destroy: unsafe extern "C" fn(Comm) -> c_int,
    comm_abort: unsafe extern "C" fn(Comm) -> c_int,
    get_error_string: unsafe extern "C" fn(c_int) -> *const c_char,
}

impl Api {
    /// Loads the library; it stays loaded, since threads of its own outlive us.
    fn load() -> Result<&'static Self, CudaError> {
        // SAFETY: the library runs nothing of ours while it loads.
        let library = NAMES.iter().find_map(|name| unsafe { Library::new(*name) }.ok()).ok_or(CudaError::NoNccl)?;
        let library: &'static Library = Box::leak(Box::new(library));
        // SAFETY: the types are those of nccl.h.
        let api = unsafe {
            Self {
                get_unique_id: symbol(library, "ncclGetUniqueId")?,
                comm_init_rank: symbol(library, "ncclCommInitRank")?,
                all_reduce: symbol(library, "ncclAllReduce")?,
                comm_destroy: symbol(library, "ncclCommDestroy")?,
                comm_abort: symbol(library, "ncclCommAbort")?,
                get_error_string: symbol(library, "ncclGetErrorString")?,
            }
        };
        Ok(Box::leak(Box::new(api)))
    }

    /// An error in the library's words.
    fn words(&self, code: c_int) -> String {
        // SAFETY: any code has a text, which is constant.
        unsafe { CStr::from_ptr((self.get_error_string)(code)) }.to_string_lossy().into_owned()
    }

    fn check(&self, what: &'static str, code: c_int) -> Result<(), CudaError> {
        if code == 0 { Ok(()) } else { Err(CudaError::Driver { what, why: self.words(code) }) }
    }
}

/// # Safety
/// `T` is the function's type.
unsafe fn symbol<T: Copy>(library: &'static Library, name: &'static str) -> Result<T, CudaError> {
    // SAFETY: by the caller's promise.
    let found = unsafe { library.get::<T>(name.as_bytes()) };
    found.map(|s| *s).map_err(|e| CudaError::Driver { what: "loading NCCL", why: e.to_string() })
}

/// An id for processes to meet by; the first of them makes it and tells the others.
///
/// # Errors
/// When there is no NCCL, or it cannot.
pub fn nccl_id() -> Result<NcclId, CudaError> {
    let api = Api::load()?;
    let mut id = UniqueId([0; 128]);
    // SAFETY: writes the id.
    api.check("making an id for NCCL", unsafe { (api.get_unique_id)(&mut id) })?;
    Ok(id.0.map(|c| c as u8))
}

/// The processes that learn together, each with a GPU of its own.
pub struct Nccl {
    api: &'static Api,
    comm: Comm,
    rank: usize,
    size: usize,
    gpu: Gpu,
}

// SAFETY: a communicator may move between threads; one at a time uses it, as `Nccl` is not `Sync`.
unsafe impl Send for Nccl {}

impl std::fmt::Debug for Nccl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} of {} on {:?}", self.rank, self.size, self.gpu)
    }
}

impl Nccl {
    /// Joins as process `rank` of `size`, with the id that the first made, on device `ordinal`. Waits for the others.
    ///
    /// # Errors
    /// When the device or NCCL cannot be used, or the processes do not find one another.
    pub fn join(ordinal: usize, id: &NcclId, rank: usize, size: usize) -> Result<Self, CudaError> {
        let (api, gpu) = (Api::load()?, Gpu::open(ordinal)?);
        gpu.bind();
        let int = |n: usize| c_int::try_from(n).expect("processes are fewer than 2^31");
        let mut comm = std::ptr::null_mut();
        let id = UniqueId(id.map(|b| b as c_char));
        // SAFETY: writes a handle; the device is this thread's current one.
        let code = unsafe { (api.comm_init_rank)(&mut comm, int(size), id, int(rank)) };
        api.check("joining the other GPUs", code)?;
        Ok(Self { api, comm, rank, size, gpu })
    }

    /// Replaces the numbers of `span` by their sums over all processes, after what was launched before on the stream of `gpu`, which is
    /// on the same device.
    pub(super) fn sum(&self, gpu: &Gpu, span: Span) {
        let kind = match span.number() {
            Number::F32 => 7, // ncclFloat32
            Number::F64 => 8, // ncclFloat64
            other => panic!("no sums of {other:?}"),
        };
        let (at, stream) = gpu.address(span);
        // SAFETY: so many numbers of this kind lie there, and the stream belongs to the same device.
        let code = unsafe { (self.api.all_reduce)(at.cast_const(), at, span.len(), kind, SUM, self.comm, stream) };
        if code != 0 {
            DeviceFailure::Failed { what: "the sum over all GPUs", why: self.api.words(code) }.raise();
        }
    }

    /// As [`sum`](Self::sum), of numbers in memory.
    fn sum_host<T: super::gpu::HostNumber>(&self, numbers: &mut [T]) {
        if numbers.is_empty() {
            return;
        }
        self.gpu.bind();
        let there = self.gpu.upload(numbers);
        self.sum(&self.gpu, there.span());
        self.gpu.read(there.span(), numbers);
    }
}

impl AllReduce for Nccl {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn sum_f32(&self, numbers: &mut [f32]) {
        self.sum_host(numbers);
    }

    fn sum_f64(&self, numbers: &mut [f64]) {
        self.sum_host(numbers);
    }

    fn nccl(&self) -> Option<&Nccl> {
        Some(self)
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        self.gpu.bind_if_there();
        // Ending in order waits for the others, who may wait for this process's next sum: one that is unwinding does not.
        let end = if std::thread::panicking() { self.api.comm_abort } else { self.api.comm_destroy };
        // SAFETY: called once, after the last sum.
        let _ = unsafe { end(self.comm) };
    }
}
