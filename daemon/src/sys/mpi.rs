//! MPI, as the launcher of several processes has it: loaded when it is asked for, so that nothing depends on it otherwise.
//!
//! Open MPI and MPICH have different binary interfaces: in one a handle is the address of a variable of the library, in the other a
//! number (`mpi.h` of Open MPI 4 and of MPICH 4). Only five functions are needed.

use std::ffi::{c_int, c_void};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use wiremamba_model::train::AllReduce;

/// Numbers that one call sums: counts are ints.
const NUMBERS_MAX: usize = 1 << 26;
/// `MPI_THREAD_SERIALIZED` in both: one thread at a time, whichever.
const THREAD_SERIALIZED: c_int = 2;

/// Why MPI cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MpiError {
    /// No library.
    #[error("no MPI library was found (libmpi.so.40 of Open MPI, or libmpich.so.12; Debian: openmpi-bin, mpich)")]
    NotFound,
    /// A library that is another one than it seems.
    #[error("the MPI library lacks {0}")]
    Symbol(&'static str),
    /// A call failed.
    #[error("{0} failed with code {1}")]
    Call(&'static str, c_int),
}

/// All processes that the launcher started.
pub(crate) struct World {
    all_reduce: unsafe extern "C" fn(*const c_void, *mut c_void, c_int, usize, usize, usize) -> c_int,
    finalize: unsafe extern "C" fn() -> c_int,
    constants: Constants,
    rank: usize,
    size: usize,
    /// Loaded libraries stay loaded: threads of theirs outlive us.
    _library: &'static Library,
}

/// Handles as a call takes them.
#[derive(Debug, Clone, Copy)]
struct Constants {
    in_place: usize,
    world: usize,
    float: usize,
    double: usize,
    sum: usize,
}

impl World {
    /// Joins the processes that `mpirun`, `mpiexec` or `srun` has started; alone, there is one.
    pub(crate) fn join() -> Result<Self, MpiError> {
        let (library, is_mpich) = load().ok_or(MpiError::NotFound)?;
        let library: &'static Library = Box::leak(Box::new(library));
        let constants = if is_mpich { MPICH } else { open_mpi(library)? };
        let mut provided = 0;
        let none: *mut c_void = std::ptr::null_mut();
        // SAFETY: the types are those of the MPI standard; null arguments are allowed since MPI 2.
        let code = unsafe {
            let init: unsafe extern "C" fn(*mut c_void, *mut c_void, c_int, *mut c_int) -> c_int =
                symbol(library, "MPI_Init_thread")?;
            init(none, none, THREAD_SERIALIZED, &mut provided)
        };
        check("MPI_Init_thread", code)?;
        let ask = |name: &'static str| {
            let mut value = 0;
            // SAFETY: as above; writes one int.
            let code = unsafe {
                let call: unsafe extern "C" fn(usize, *mut c_int) -> c_int = symbol(library, name)?;
                call(constants.world, &mut value)
            };
            check(name, code).map(|()| value.unsigned_abs() as usize)
        };
        let (rank, size) = (ask("MPI_Comm_rank")?, ask("MPI_Comm_size")?);
        // SAFETY: the types are those of the MPI standard, with handles as wide as a register.
        let (all_reduce, finalize) = unsafe { (symbol(library, "MPI_Allreduce")?, symbol(library, "MPI_Finalize")?) };
        Ok(Self { all_reduce, finalize, constants, rank, size, _library: library })
    }

    fn sum(&self, numbers: *mut c_void, count: usize, kind: usize) {
        let Constants { in_place, world, sum, .. } = self.constants;
        let count = c_int::try_from(count).expect("NUMBERS_MAX fits");
        // SAFETY: `numbers` has so many of this kind, and is borrowed exclusively by the caller.
        let code = unsafe { (self.all_reduce)(in_place as *const c_void, numbers, count, kind, sum, world) };
        // By MPI's default a failure ends the process before this; without the sum nothing can go on.
        assert_eq!(code, 0, "MPI_Allreduce failed with code {code}");
    }
}

impl AllReduce for World {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn sum_f32(&self, numbers: &mut [f32]) {
        for part in numbers.chunks_mut(NUMBERS_MAX) {
            self.sum(part.as_mut_ptr().cast(), part.len(), self.constants.float);
        }
    }

    fn sum_f64(&self, numbers: &mut [f64]) {
        for part in numbers.chunks_mut(NUMBERS_MAX) {
            self.sum(part.as_mut_ptr().cast(), part.len(), self.constants.double);
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // MPI_Finalize waits for the others, and the others for this process's next sum: one that is unwinding leaves without it, which
        // the launcher takes as a failure of the whole job.
        if !std::thread::panicking() {
            // SAFETY: called once, after the last sum.
            unsafe { (self.finalize)() };
        }
    }
}

/// `mpi.h` of MPICH 4.
const MPICH: Constants =
    Constants { in_place: usize::MAX, world: 0x4400_0000, float: 0x4c00_040a, double: 0x4c00_080b, sum: 0x5800_0003 };

/// `mpi.h` of Open MPI 4: the addresses of the library's variables.
fn open_mpi(library: &Library) -> Result<Constants, MpiError> {
    let address = |name: &'static str| {
        // SAFETY: only the address is taken.
        let found = unsafe { library.get::<*const c_void>(name.as_bytes()) };
        found.map(|s| s.as_raw_ptr() as usize).map_err(|_| MpiError::Symbol(name))
    };
    Ok(Constants {
        in_place: 1,
        world: address("ompi_mpi_comm_world")?,
        float: address("ompi_mpi_float")?,
        double: address("ompi_mpi_double")?,
        sum: address("ompi_mpi_op_sum")?,
    })
}

/// The library of the launcher that started this process, and whether it is MPICH's.
fn load() -> Option<(Library, bool)> {
    let by_mpich = std::env::var_os("PMI_RANK").is_some() && std::env::var_os("OMPI_COMM_WORLD_RANK").is_none();
    let mut names = [("libmpi.so.40", false), ("libmpich.so.12", true)];
    if by_mpich {
        names.reverse();
    }
    names.into_iter().find_map(|(name, is_mpich)| {
        // SAFETY: MPI libraries do nothing of ours when they are loaded. Open MPI's own plugins look their symbols up globally.
        unsafe { Library::open(Some(name), RTLD_NOW | RTLD_GLOBAL) }.ok().map(|library| (library, is_mpich))
    })
}

/// # Safety
/// `T` is the function's type.
unsafe fn symbol<T: Copy>(library: &Library, name: &'static str) -> Result<T, MpiError> {
    // SAFETY: by the caller's promise.
    unsafe { library.get::<T>(name.as_bytes()) }.map(|s| *s).map_err(|_| MpiError::Symbol(name))
}

fn check(name: &'static str, code: c_int) -> Result<(), MpiError> {
    if code == 0 { Ok(()) } else { Err(MpiError::Call(name, code)) }
}
