//! Device memory: buffers, parts of them, and copies.

use std::sync::Arc;

use cudarc::driver::{CudaContext, result, sys};

use sys::CUmemPool_attribute_enum as PoolFigure;

use super::{Gpu, Inner, must};
use crate::device::DeviceFailure;

/// What a number in device memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine::cuda) enum Number {
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
pub(in crate::engine::cuda) trait HostNumber: Copy + bytemuck::Pod {
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
pub(in crate::engine::cuda) struct Buffer {
    gpu: Arc<Inner>,
    pub(super) ptr: sys::CUdeviceptr,
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
    pub(in crate::engine::cuda) fn span(&self) -> Span {
        Span { ptr: self.ptr, number: self.number, len: self.len }
    }

    /// `len` numbers from the `at`-th on.
    ///
    /// # Panics
    /// When they are not all there.
    pub(in crate::engine::cuda) fn part(&self, at: usize, len: usize) -> Span {
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
pub(in crate::engine::cuda) struct Span {
    pub(super) ptr: sys::CUdeviceptr,
    pub(super) number: Number,
    pub(super) len: usize,
}

impl Span {
    /// Nothing: a null pointer for the kernel.
    pub(in crate::engine::cuda) const NONE: Span = Span { ptr: 0, number: Number::U8, len: 0 };

    pub(in crate::engine::cuda) fn len(&self) -> usize {
        self.len
    }

    pub(in crate::engine::cuda) fn number(&self) -> Number {
        self.number
    }

    /// Whether any byte belongs to both.
    pub(in crate::engine::cuda) fn overlaps(&self, other: &Span) -> bool {
        let end = |span: &Span| span.ptr + (span.len * span.number.bytes()) as u64;
        self.ptr < end(other) && other.ptr < end(self)
    }

    /// `len` numbers from the `at`-th on.
    ///
    /// # Panics
    /// When they are not all there.
    pub(in crate::engine::cuda) fn part(&self, at: usize, len: usize) -> Span {
        assert!(at.checked_add(len).is_some_and(|end| end <= self.len), "{at} + {len} of {}", self.len);
        Span { ptr: self.ptr + (at * self.number.bytes()) as u64, len, ..*self }
    }
}

impl Gpu {
    /// Bytes of device memory that can be had now: free ones, and those that the driver keeps for this process.
    pub(in crate::engine::cuda) fn free_bytes(&self) -> usize {
        self.bind();
        let free = self.inner.context.mem_get_info().map_or(0, |(free, _)| free);
        let [reserved, used] =
            [PoolFigure::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, PoolFigure::CU_MEMPOOL_ATTR_USED_MEM_CURRENT]
                .map(|of| self.pool(of));
        free + reserved.saturating_sub(used) as usize
    }

    /// The most bytes that this process has held at a time.
    pub(in crate::engine::cuda) fn peak_bytes(&self) -> u64 {
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
    pub(in crate::engine::cuda) fn alloc(&self, number: Number, len: usize) -> Buffer {
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
    pub(in crate::engine::cuda) fn zeros(&self, number: Number, len: usize) -> Buffer {
        let buffer = self.alloc(number, len);
        self.zero(buffer.span());
        buffer
    }

    /// Memory with what `from` holds.
    pub(in crate::engine::cuda) fn upload<T: HostNumber>(&self, from: &[T]) -> Buffer {
        let buffer = self.alloc(T::NUMBER, from.len());
        self.write(buffer.span(), from);
        buffer
    }

    /// Sets all of `to` to zero.
    pub(in crate::engine::cuda) fn zero(&self, to: Span) {
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
    pub(in crate::engine::cuda) fn write<T: HostNumber>(&self, to: Span, from: &[T]) {
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
    pub(in crate::engine::cuda) fn read<T: HostNumber>(&self, from: Span, ret: &mut [T]) {
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
    pub(in crate::engine::cuda) fn copy(&self, to: Span, from: Span) {
        assert!(to.number == from.number && to.len == from.len, "{from:?} to {to:?}");
        if to.len > 0 {
            let bytes = to.len * to.number.bytes();
            // SAFETY: both have so many bytes.
            let copied = unsafe { result::memcpy_dtod_async(to.ptr, from.ptr, bytes, self.inner.stream.cu_stream()) };
            must(copied, "copying on the device");
        }
    }
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
pub(super) fn keep_freed(context: &CudaContext) -> Result<(), result::DriverError> {
    let mut threshold = u64::MAX;
    let what = PoolFigure::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the threshold is a 64-bit number, which the call reads.
    unsafe { sys::cuMemPoolSetAttribute(pool(context)?, what, (&raw mut threshold).cast()) }.result()
}
