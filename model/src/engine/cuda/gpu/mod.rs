//! The device: memory, copies, launches and products, on one stream.
//!
//! The one module of the CUDA engine that may use unsafe code. What it hands out is safe because nothing here reads or
//! writes outside of a [`Span`], and a span cannot be made larger than the [`Buffer`] that it belongs to: the typed launches in
//! [`super::kernels`] state what each kernel touches, and it is checked before the launch. All work goes to one stream, in
//! order, so a buffer that is dropped is freed after what was launched before.

mod memory;
mod present;
mod product;

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::Arc;

use cudarc::cublas::{self, sys as blas};
use cudarc::driver::{CudaContext, CudaGraph, CudaStream, result, sys};

use super::images;
use memory::keep_freed;
use present::{check_capability, context, count, driver, info};

use crate::device::{DeviceFailure, Gpu as GpuInfo};
pub(super) use memory::{Buffer, HostNumber, Number, Span};
pub use present::{CudaError, devices};
pub(super) use product::GpuMatrix;

/// Blocks of a grid in its second and third dimension, at most (CUDA C++ Programming Guide, technical specifications).
const GRID_ROWS_MAX: usize = 65_535;

/// One argument of a launch.
#[derive(Debug, Clone, Copy)]
pub(super) enum Arg {
    Span(Span),
    Int(i32),
    Float(f32),
    Count(u64),
}

impl From<Span> for Arg {
    fn from(span: Span) -> Self {
        Arg::Span(span)
    }
}
impl From<usize> for Arg {
    fn from(n: usize) -> Self {
        Arg::Int(i32::try_from(n).expect("sizes of a batch are below 2^31"))
    }
}
impl From<f32> for Arg {
    fn from(x: f32) -> Self {
        Arg::Float(x)
    }
}
impl From<u64> for Arg {
    fn from(n: u64) -> Self {
        Arg::Count(n)
    }
}

/// A recorded sequence of launches.
pub(super) struct Recording(CudaGraph);

// SAFETY: a graph may not be used by two threads at once, and it is not: it has one owner, and launching takes `&mut`.
unsafe impl Send for Recording {}

impl std::fmt::Debug for Recording {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Recording")
    }
}

struct Inner {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
}

/// A device with its kernels loaded, and the stream that all work of one engine goes to.
pub(super) struct Gpu {
    inner: Arc<Inner>,
    blas: blas::cublasHandle_t,
    functions: HashMap<&'static str, sys::CUfunction>,
    modules: Vec<sys::CUmodule>,
    /// Memory of the products; set once, so that they can be recorded.
    workspace: Option<Buffer>,
    info: GpuInfo,
    arguments: RefCell<Vec<u64>>,
}

// SAFETY: handles of the driver and of cuBLAS may move between threads; each entry binds the context to the thread it is on, and `Gpu`
// is not `Sync`, so one thread at a time uses them.
unsafe impl Send for Gpu {}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.info.name)
    }
}

impl Gpu {
    /// Opens device `ordinal` and loads the kernels.
    pub(super) fn open(ordinal: usize) -> Result<Self, CudaError> {
        let present = count()?;
        if ordinal >= present {
            return Err(CudaError::NoSuchDevice { asked: ordinal, present });
        }
        let context = context(ordinal)?;
        let info = info(&context)?;
        check_capability(&info.name, info.capability)?;
        // SAFETY: no slice of cudarc's is used here, so there is nothing to be tracked.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(driver("making a stream"))?;
        keep_freed(&context).map_err(driver("opening the device's memory"))?;
        let mut gpu = Self {
            inner: Arc::new(Inner { context, stream }),
            blas: std::ptr::null_mut(),
            functions: HashMap::new(),
            modules: Vec::new(),
            workspace: None,
            info,
            arguments: RefCell::new(Vec::new()),
        };
        for (image, names) in images::ALL {
            gpu.load(image, names)?;
        }
        gpu.open_blas().map_err(|e| CudaError::Driver { what: "starting cuBLAS", why: format!("{:?}", e.0) })?;
        Ok(gpu)
    }

    fn load(&mut self, image: &'static [u8], names: &'static [&'static str]) -> Result<(), CudaError> {
        let load = driver("loading the kernels");
        // SAFETY: the image is whole, as the compiler wrote it; the driver copies it.
        let module = unsafe { result::module::load_data(image.as_ptr().cast()) }.map_err(&load)?;
        self.modules.push(module);
        for name in names {
            let c_name = CString::new(*name).expect("names of kernels hold no zero byte");
            // SAFETY: the module was just loaded, and is unloaded after the last launch.
            self.functions.insert(name, unsafe { result::module::get_function(module, c_name) }.map_err(&load)?);
        }
        Ok(())
    }

    /// What the device is.
    pub(super) fn info(&self) -> &GpuInfo {
        &self.info
    }

    /// Makes the device the current one of this thread; to be called where work begins.
    pub(super) fn bind(&self) {
        must(self.inner.context.bind_to_thread(), "switching to the device");
    }

    /// As [`bind`](Self::bind), where nothing can be done about an error.
    #[cfg(feature = "nccl")]
    pub(super) fn bind_if_there(&self) {
        let _ = self.inner.context.bind_to_thread();
    }

    /// Where `span` lies and the stream that works on it, for a library that takes both.
    #[cfg(feature = "nccl")]
    pub(super) fn address(&self, span: Span) -> (*mut c_void, *mut c_void) {
        (span.ptr as *mut c_void, self.inner.stream.cu_stream().cast())
    }

    /// Waits for all work.
    pub(super) fn synchronize(&self) {
        must(self.inner.stream.synchronize(), "the device's work");
    }

    /// Launches a kernel with `grid` blocks of `block` threads.
    ///
    /// # Safety
    /// The arguments are those of the kernel, in number, order and kind, and it touches no memory outside of the spans.
    pub(super) unsafe fn launch(
        &self,
        name: &'static str,
        grid: (usize, usize, usize),
        block: (usize, usize),
        args: &[Arg],
    ) {
        let function = *self.functions.get(name).unwrap_or_else(|| panic!("no kernel {name}"));
        let size = |n: usize| u32::try_from(n).expect("grids are below 2^32");
        if grid.0 == 0 || grid.1 == 0 || grid.2 == 0 {
            return;
        }
        let count = grid.1.max(grid.2);
        if count > GRID_ROWS_MAX {
            DeviceFailure::TooMany { count, max: GRID_ROWS_MAX }.raise();
        }
        // Each argument lies in eight bytes of its own; the driver takes as many of them as the kernel's parameter has.
        let mut values = self.arguments.borrow_mut();
        values.clear();
        values.extend(args.iter().map(|arg| match *arg {
            Arg::Span(span) => span.ptr,
            Arg::Int(n) => u64::from(n as u32),
            Arg::Float(x) => u64::from(x.to_bits()),
            Arg::Count(n) => n,
        }));
        let mut pointers: Vec<*mut c_void> = values.iter_mut().map(|v| std::ptr::from_mut(v).cast()).collect();
        let (grid, block) = ((size(grid.0), size(grid.1), size(grid.2)), (size(block.0), size(block.1), 1));
        let stream = self.inner.stream.cu_stream();
        // SAFETY: the function belongs to this context, and the arguments are the kernel's by the caller's promise.
        let launched = unsafe { result::launch_kernel(function, grid, block, 0, stream, &mut pointers) };
        must(launched, name);
    }

    /// Records what `work` launches, without running it.
    pub(super) fn record(&self, work: impl FnOnce()) -> Recording {
        let stream = &self.inner.stream;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        must(stream.begin_capture(mode), "recording");
        work();
        let graph = must(stream.end_capture(sys::CUgraphInstantiate_flags(0)), "recording");
        Recording(graph.expect("something was launched"))
    }

    /// Runs a recording.
    pub(super) fn replay(&self, recording: &mut Recording) {
        must(recording.0.launch(), "running what was recorded");
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        let _ = self.inner.context.bind_to_thread();
        let _ = self.inner.stream.synchronize();
        // SAFETY: everything was launched and done; each handle is given back once. Errors can only be those of a lost device.
        unsafe {
            if !self.blas.is_null() {
                let _ = cublas::result::destroy_handle(self.blas);
            }
            for module in self.modules.drain(..) {
                let _ = result::module::unload(module);
            }
        }
    }
}

/// The result; what went wrong on the device is a [`DeviceFailure`].
fn must<T>(result: Result<T, result::DriverError>, what: &'static str) -> T {
    result.unwrap_or_else(|e| DeviceFailure::Failed { what, why: words(e) }.raise())
}

/// An error in the driver's words.
fn words(e: result::DriverError) -> String {
    let words = e.error_string().ok().map(|s| s.to_string_lossy().into_owned());
    words.unwrap_or_else(|| format!("{:?}", e.0))
}
