//! The device: memory, copies, launches and products, on one stream.
//!
//! The one module of the CUDA engine that may use unsafe code. What it hands out is safe because nothing here reads or
//! writes outside of a [`Span`], and a span cannot be made larger than the [`Buffer`] that it belongs to: the typed launches in
//! [`super::kernels`] state what each kernel touches, and it is checked before the launch. All work goes to one stream, in
//! order, so a buffer that is dropped is freed after what was launched before.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::Arc;

use cudarc::cublas::{self, sys as blas};
use cudarc::driver::{CudaContext, CudaGraph, CudaStream, result, sys};

use sys::CUmemPool_attribute_enum as PoolFigure;

use super::images;
use crate::device::{DeviceFailure, Gpu as GpuInfo};

/// The CUDA version that the kernels were compiled by, as the driver counts: 13.0.
const DRIVER_VERSION_MIN: i32 = 13_000;
/// The lowest compute capability that the kernels were compiled for.
const CAPABILITY_MIN: (i32, i32) = (8, 0);
/// Scratch of the matrix products: what NVIDIA recommends for compute capability 9.0, and enough for the others.
const WORKSPACE_BYTES: usize = 32 << 20;
/// Blocks of a grid in its second and third dimension, at most (CUDA C++ Programming Guide, technical specifications).
const GRID_ROWS_MAX: usize = 65_535;

/// Why a GPU cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// No driver.
    #[error("there is no NVIDIA driver here (libcuda.so.1 was not found)")]
    NoDriver,
    /// No cuBLAS.
    #[error(
        "cuBLAS was not found (libcublas.so.13 and libcublasLt.so.13; they come with the CUDA toolkit or with the Python \
         package nvidia-cublas; put their folder in LD_LIBRARY_PATH)"
    )]
    NoCublas,
    /// No NCCL.
    #[error(
        "NCCL was not found (libnccl.so.2; it comes with NVIDIA's packages libnccl2 and with the Python package nvidia-nccl-cu13; put its \
         folder in LD_LIBRARY_PATH)"
    )]
    NoNccl,
    /// A driver without a device.
    #[error("the NVIDIA driver sees no GPU")]
    NoDevice,
    /// Fewer devices.
    #[error("there is no GPU {asked}: the driver has {present}, numbered from 0")]
    NoSuchDevice {
        /// The one asked for.
        asked: usize,
        /// How many there are.
        present: usize,
    },
    /// An old driver.
    #[error("the NVIDIA driver supports CUDA {}.{}, this build needs 13.0 (driver 580 or newer)", .0 / 1000, .0 % 1000 / 10)]
    OldDriver(i32),
    /// An old GPU.
    #[error("{name} has compute capability {}.{}; the kernels need 8.0 or newer", .capability.0, .capability.1)]
    OldDevice {
        /// The device's name.
        name: String,
        /// Its compute capability.
        capability: (i32, i32),
    },
    /// The network's sizes have no kernel.
    #[error("the CUDA engine has kernels for {supported} only; this network has {found}")]
    UnsupportedConfig {
        /// What there is.
        supported: &'static str,
        /// What was found.
        found: String,
    },
    /// Anything that the driver reports.
    #[error("{what} failed: {why}")]
    Driver {
        /// What was tried.
        what: &'static str,
        /// The driver's words.
        why: String,
    },
}

/// The devices that the driver sees, and whether each can be used.
///
/// # Errors
/// When there is no driver, no device, or no cuBLAS, or the driver is too old for any of them.
pub fn devices() -> Result<Vec<GpuInfo>, CudaError> {
    let count = count()?;
    (0..count).map(|ordinal| context(ordinal).and_then(|context| info(&context))).collect()
}

/// How many devices a usable driver has.
fn count() -> Result<usize, CudaError> {
    // SAFETY: opens libraries and closes them again; NVIDIA's run nothing of ours while they load.
    if !unsafe { sys::is_culib_present() } {
        return Err(CudaError::NoDriver);
    }
    match result::init() {
        Err(e) if e.0 == sys::CUresult::CUDA_ERROR_NO_DEVICE => return Err(CudaError::NoDevice),
        other => other.map_err(driver("starting the driver"))?,
    }
    let mut version = 0;
    // SAFETY: writes one int.
    let status = unsafe { sys::cuDriverGetVersion(&mut version) };
    status.result().map_err(driver("asking for the driver's version"))?;
    if version < DRIVER_VERSION_MIN {
        return Err(CudaError::OldDriver(version));
    }
    // SAFETY: as above.
    if !unsafe { blas::is_culib_present() } {
        return Err(CudaError::NoCublas);
    }
    let count = result::device::get_count().map_err(driver("counting devices"))? as usize;
    if count == 0 { Err(CudaError::NoDevice) } else { Ok(count) }
}

fn context(ordinal: usize) -> Result<Arc<CudaContext>, CudaError> {
    CudaContext::new(ordinal).map_err(driver("opening the device"))
}

fn info(context: &CudaContext) -> Result<GpuInfo, CudaError> {
    let ask = driver("asking the device what it is");
    let name = context.name().map_err(&ask)?;
    let capability = context.compute_capability().map_err(&ask)?;
    let multiprocessors = context.attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
    Ok(GpuInfo {
        ordinal: context.ordinal(),
        memory_bytes: context.total_mem().map_err(&ask)?,
        multiprocessors: multiprocessors.map_err(&ask)? as usize,
        unusable: check_capability(&name, capability).err().map(|why| why.to_string()),
        name,
        capability,
    })
}

fn check_capability(name: &str, capability: (i32, i32)) -> Result<(), CudaError> {
    let name = name.to_owned();
    if capability < CAPABILITY_MIN { Err(CudaError::OldDevice { name, capability }) } else { Ok(()) }
}

fn driver(what: &'static str) -> impl Fn(result::DriverError) -> CudaError {
    move |e| CudaError::Driver { what, why: words(e) }
}

/// What a number in device memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Number {
    /// An unsigned byte.
    U8,
    /// An unsigned integer of 32 bits.
    U32,
    /// f32.
    F32,
    /// bf16: the upper half of an f32.
    Bf16,
    /// f64.
    F64,
}

impl Number {
    /// Its size.
    fn bytes(self) -> usize {
        match self {
            Number::U8 => 1,
            Number::Bf16 => 2,
            Number::U32 | Number::F32 => 4,
            Number::F64 => 8,
        }
    }
}

/// Types of the host that are numbers of the device.
pub(super) trait HostNumber: Copy + bytemuck::Pod {
    const NUMBER: Number;
}

impl HostNumber for u8 {
    const NUMBER: Number = Number::U8;
}
impl HostNumber for u32 {
    const NUMBER: Number = Number::U32;
}
impl HostNumber for f32 {
    const NUMBER: Number = Number::F32;
}
impl HostNumber for f64 {
    const NUMBER: Number = Number::F64;
}

/// A piece of device memory that is owned.
pub(super) struct Buffer {
    gpu: Arc<Inner>,
    ptr: sys::CUdeviceptr,
    number: Number,
    len: usize,
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} x {:?}", self.len, self.number)
    }
}

impl Buffer {
    /// All of it.
    pub(super) fn span(&self) -> Span {
        Span { ptr: self.ptr, number: self.number, len: self.len }
    }

    /// `len` numbers from the `at`-th on.
    ///
    /// # Panics
    /// When they are not all there.
    pub(super) fn part(&self, at: usize, len: usize) -> Span {
        self.span().part(at, len)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.len > 0 {
            // An error here would be one of the context, which the next call reports.
            let _ = self.gpu.context.bind_to_thread();
            // SAFETY: allocated by `alloc` and freed once, after all work on it, which is on the same stream.
            let _ = unsafe { result::free_async(self.ptr, self.gpu.stream.cu_stream()) };
        }
    }
}

/// A part of a [`Buffer`], as launches take it. It must not outlive the buffer; the engine keeps its buffers for as long as it works.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    ptr: sys::CUdeviceptr,
    number: Number,
    len: usize,
}

impl Span {
    /// Nothing: a null pointer for the kernel.
    pub(super) const NONE: Span = Span { ptr: 0, number: Number::U8, len: 0 };

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn number(&self) -> Number {
        self.number
    }

    /// Whether any byte belongs to both.
    pub(super) fn overlaps(&self, other: &Span) -> bool {
        let end = |span: &Span| span.ptr + (span.len * span.number.bytes()) as u64;
        self.ptr < end(other) && other.ptr < end(self)
    }

    /// `len` numbers from the `at`-th on.
    ///
    /// # Panics
    /// When they are not all there.
    pub(super) fn part(&self, at: usize, len: usize) -> Span {
        assert!(at.checked_add(len).is_some_and(|end| end <= self.len), "{at} + {len} of {}", self.len);
        Span { ptr: self.ptr + (at * self.number.bytes()) as u64, len, ..*self }
    }
}

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

/// A matrix in device memory, row-major, perhaps to be read as its transpose.
#[derive(Debug, Clone, Copy)]
pub(super) struct GpuMatrix {
    span: Span,
    rows: usize,
    columns: usize,
    stride: usize,
    is_transposed: bool,
}

impl GpuMatrix {
    /// `rows` x `columns` numbers behind one another.
    pub(super) fn new(span: Span, rows: usize, columns: usize) -> Self {
        Self::strided(span, rows, columns, columns)
    }

    /// `rows` rows of `columns` numbers, `stride` numbers apart.
    ///
    /// # Panics
    /// When the span is too short.
    pub(super) fn strided(span: Span, rows: usize, columns: usize, stride: usize) -> Self {
        assert!(
            columns <= stride && rows > 0 && (rows - 1) * stride + columns <= span.len,
            "a matrix outside of its span"
        );
        Self { span, rows, columns, stride, is_transposed: false }
    }

    /// Its transpose.
    pub(super) fn t(self) -> Self {
        Self { is_transposed: !self.is_transposed, ..self }
    }

    fn shape(&self) -> (usize, usize) {
        if self.is_transposed { (self.columns, self.rows) } else { (self.rows, self.columns) }
    }

    fn operation(&self) -> blas::cublasOperation_t {
        // cuBLAS takes columns where we have rows, so every matrix is already its transpose, and the product is turned round.
        if self.is_transposed { blas::cublasOperation_t::CUBLAS_OP_T } else { blas::cublasOperation_t::CUBLAS_OP_N }
    }

    fn data_type(&self) -> blas::cudaDataType {
        match self.span.number {
            Number::F32 => blas::cudaDataType::CUDA_R_32F,
            Number::Bf16 => blas::cudaDataType::CUDA_R_16BF,
            other => panic!("no products of {other:?}"),
        }
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

/// The pool that allocations on the device come from.
fn pool(context: &CudaContext) -> Result<sys::CUmemoryPool, result::DriverError> {
    let mut pool = std::ptr::null_mut();
    // SAFETY: writes a handle; the device is one that is open, and the pool lives as long as it.
    unsafe { sys::cuDeviceGetDefaultMemPool(&mut pool, context.cu_device()) }.result()?;
    Ok(pool)
}

/// Has the pool keep what is freed: by default each wait for the device gives it back to the system, and the next small buffer has to be
/// asked for again.
fn keep_freed(context: &CudaContext) -> Result<(), result::DriverError> {
    let mut threshold = u64::MAX;
    let what = PoolFigure::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the threshold is a 64-bit number, which the call reads.
    unsafe { sys::cuMemPoolSetAttribute(pool(context)?, what, (&raw mut threshold).cast()) }.result()
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

    fn open_blas(&mut self) -> Result<(), cublas::result::CublasError> {
        self.blas = cublas::result::create_handle()?;
        let workspace = self.alloc(Number::U8, WORKSPACE_BYTES);
        // SAFETY: the handle was just made; stream and workspace live as long as it.
        unsafe {
            cublas::result::set_stream(self.blas, self.inner.stream.cu_stream().cast())?;
            blas::cublasSetWorkspace_v2(self.blas, workspace.ptr as *mut c_void, WORKSPACE_BYTES).result()?;
            // Sums of bf16 products are f32 all the way.
            let mode = blas::cublasMath_t::CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
            blas::cublasSetMathMode(self.blas, mode).result()?;
        }
        self.workspace = Some(workspace);
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

    /// Bytes of device memory that can be had now: free ones, and those that the driver keeps for this process.
    pub(super) fn free_bytes(&self) -> usize {
        self.bind();
        let free = self.inner.context.mem_get_info().map_or(0, |(free, _)| free);
        let [reserved, used] =
            [PoolFigure::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, PoolFigure::CU_MEMPOOL_ATTR_USED_MEM_CURRENT]
                .map(|of| self.pool(of));
        free + reserved.saturating_sub(used) as usize
    }

    /// The most bytes that this process has held at a time.
    pub(super) fn peak_bytes(&self) -> u64 {
        self.bind();
        self.pool(PoolFigure::CU_MEMPOOL_ATTR_USED_MEM_HIGH)
    }

    /// A figure of the pool that allocations come from; 0 where it cannot be had.
    fn pool(&self, figure: PoolFigure) -> u64 {
        let mut ret = 0u64;
        if let Ok(pool) = pool(&self.inner.context) {
            // SAFETY: the figures asked for are 64-bit numbers, which the call writes.
            let _ = unsafe { sys::cuMemPoolGetAttribute(pool, figure, (&raw mut ret).cast()) };
        }
        ret
    }

    /// Memory for `len` numbers, of any content.
    ///
    /// A device that has not so much is a [`DeviceFailure`].
    pub(super) fn alloc(&self, number: Number, len: usize) -> Buffer {
        let bytes = len * number.bytes();
        let ptr = if bytes == 0 {
            0
        } else {
            self.bind();
            // SAFETY: plain allocation; nothing reads it before it is written, which the order of launches sees to.
            unsafe { result::malloc_async(self.inner.stream.cu_stream(), bytes) }.unwrap_or_else(|e| match e.0 {
                sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                    let (asked_mib, free_mib) = (bytes.div_ceil(1 << 20), self.free_bytes() >> 20);
                    DeviceFailure::OutOfMemory { name: self.info.name.clone(), asked_mib, free_mib }.raise()
                }
                _ => must(Err(e), "allocating memory"),
            })
        };
        Buffer { gpu: Arc::clone(&self.inner), ptr, number, len }
    }

    /// Memory for `len` numbers, all zero.
    pub(super) fn zeros(&self, number: Number, len: usize) -> Buffer {
        let buffer = self.alloc(number, len);
        self.zero(buffer.span());
        buffer
    }

    /// Memory with what `from` holds.
    pub(super) fn upload<T: HostNumber>(&self, from: &[T]) -> Buffer {
        let buffer = self.alloc(T::NUMBER, from.len());
        self.write(buffer.span(), from);
        buffer
    }

    /// Sets all of `to` to zero.
    pub(super) fn zero(&self, to: Span) {
        let bytes = to.len * to.number.bytes();
        if bytes > 0 {
            // SAFETY: inside of a buffer.
            must(
                unsafe { result::memset_d8_async(to.ptr, 0, bytes, self.inner.stream.cu_stream()) },
                "setting memory to zero",
            );
        }
    }

    /// Writes `from` to the beginning of `to`. It may be changed once this returns.
    pub(super) fn write<T: HostNumber>(&self, to: Span, from: &[T]) {
        assert!(T::NUMBER == to.number && from.len() <= to.len, "{} of {to:?}", from.len());
        if !from.is_empty() {
            // SAFETY: `to` has room; from pageable memory, as all of ours is, the driver has read it when the call returns.
            must(
                unsafe { result::memcpy_htod_async(to.ptr, from, self.inner.stream.cu_stream()) },
                "copying to the device",
            );
        }
    }

    /// Reads all of `from`, after all work before.
    pub(super) fn read<T: HostNumber>(&self, from: Span, ret: &mut [T]) {
        assert!(T::NUMBER == from.number && from.len == ret.len(), "{} of {from:?}", ret.len());
        if !ret.is_empty() {
            // SAFETY: both have so many bytes, and `ret` is borrowed until the copy is done.
            must(
                unsafe { result::memcpy_dtoh_async(ret, from.ptr, self.inner.stream.cu_stream()) },
                "copying from the device",
            );
        }
        self.synchronize();
    }

    /// Copies all of `from` to `to`, on the device.
    pub(super) fn copy(&self, to: Span, from: Span) {
        assert!(to.number == from.number && to.len == from.len, "{from:?} to {to:?}");
        if to.len > 0 {
            let bytes = to.len * to.number.bytes();
            // SAFETY: both have so many bytes.
            let copied = unsafe { result::memcpy_dtod_async(to.ptr, from.ptr, bytes, self.inner.stream.cu_stream()) };
            must(copied, "copying on the device");
        }
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

    /// `ret` becomes a b, or has it added.
    ///
    /// # Panics
    /// When shapes do not fit, or `a` and `b` are not of the same numbers.
    pub(super) fn multiply(&self, ret: GpuMatrix, a: GpuMatrix, b: GpuMatrix, accumulate: bool) {
        let ((m, k), (k_b, n)) = (a.shape(), b.shape());
        assert!(k == k_b && ret.shape() == (m, n) && !ret.is_transposed, "{a:?} {b:?} {ret:?}");
        assert_eq!(a.span.number, b.span.number, "products are of one kind of number");
        let (alpha, beta) = (1.0f32, if accumulate { 1.0f32 } else { 0.0 });
        let int = |n: usize| i32::try_from(n).expect("sizes of a matrix are below 2^31");
        // SAFETY: the matrices lie inside of their spans, which was checked when they were made.
        let done = unsafe {
            cublas::result::gemm_ex(
                self.blas,
                b.operation(),
                a.operation(),
                int(n),
                int(m),
                int(k),
                std::ptr::from_ref(&alpha).cast(),
                b.span.ptr as *const c_void,
                b.data_type(),
                int(b.stride),
                a.span.ptr as *const c_void,
                a.data_type(),
                int(a.stride),
                std::ptr::from_ref(&beta).cast(),
                ret.span.ptr as *mut c_void,
                ret.data_type(),
                int(ret.stride),
                blas::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                blas::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        };
        if let Err(e) = done {
            DeviceFailure::Failed { what: "a product", why: format!("{:?}", e.0) }.raise();
        }
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
