//! How the processes of a run find one another, and what sums their gradients.
//!
//! MPI's launchers bring their processes together; so do the environment variables of torchrun, which Slurm's jobs set as well. NCCL
//! needs nothing of either but a word from the first process to the others: its id.

use anyhow::Result;
use wiremamba_model::device::Device;
use wiremamba_model::train::AllReduce;

use super::ParallelArg;
use crate::sys::mpi::World;

/// The processes of a run, before they compute.
pub(super) enum Party {
    /// One.
    Alone,
    /// Those that MPI's launcher started, with sums in memory.
    Mpi(World),
    /// Those with a GPU each.
    #[cfg(feature = "nccl")]
    Nccl(nccl::Invitation),
}

impl Party {
    /// Finds the others.
    pub(super) fn meet(how: Option<ParallelArg>) -> Result<Self> {
        match how {
            None => Ok(Self::Alone),
            Some(ParallelArg::Mpi) => Ok(Self::Mpi(World::join()?)),
            #[cfg(feature = "nccl")]
            Some(ParallelArg::Nccl) => Ok(Self::Nccl(nccl::Invitation::receive()?)),
            #[cfg(not(feature = "nccl"))]
            Some(ParallelArg::Nccl) => {
                Err(crate::cli::Misuse("this build has no NCCL (it was built without the feature `nccl`)".into())
                    .into())
            }
        }
    }

    /// Which of them this one is, and how many there are.
    pub(super) fn place(&self) -> (usize, usize) {
        match self {
            Self::Alone => (0, 1),
            Self::Mpi(world) => (world.rank(), world.size()),
            #[cfg(feature = "nccl")]
            Self::Nccl(invitation) => (invitation.rank, invitation.size),
        }
    }

    /// What sums the gradients of processes of which this one computes on `device`.
    pub(super) fn join(self, device: Device) -> Result<Option<Box<dyn AllReduce>>> {
        let _ = device;
        match self {
            Self::Alone => Ok(None),
            Self::Mpi(world) => Ok(Some(Box::new(world))),
            #[cfg(feature = "nccl")]
            Self::Nccl(invitation) => Ok(Some(Box::new(invitation.accept(device)?))),
        }
    }
}

#[cfg(feature = "nccl")]
mod nccl {
    use std::io::{self, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::str::FromStr;
    use std::time::{Duration, Instant};

    use anyhow::{Context, Result, bail, ensure};
    use wiremamba_model::device::Device;
    use wiremamba_model::engine::cuda::{Nccl, NcclId, nccl_id};
    use wiremamba_model::train::AllReduce;

    use crate::cli::Misuse;
    use crate::sys::mpi::World;

    /// What a process says first, before its rank.
    const GREETING: &[u8; 8] = b"wmnccl1\n";
    /// Longest that processes wait for one another: machines of a job start minutes apart at worst.
    const PATIENCE: Duration = Duration::from_secs(300);
    /// Longest that one conversation takes.
    const TALK: Duration = Duration::from_secs(5);
    const PAUSE: Duration = Duration::from_millis(50);

    /// What a process has to know to join the others.
    pub(in super::super) struct Invitation {
        pub(super) rank: usize,
        pub(super) size: usize,
        id: NcclId,
    }

    impl Invitation {
        /// Over the address in torchrun's variables where they are set, else by MPI.
        pub(super) fn receive() -> Result<Self> {
            let Some(address) = variable::<String>(&["MASTER_ADDR"])? else {
                let world = World::join().context(
                    "--parallel nccl finds the other processes by MASTER_ADDR, MASTER_PORT, RANK and WORLD_SIZE (torchrun), or by MPI",
                )?;
                let (rank, size) = (world.rank(), world.size());
                let own = if rank == 0 { nccl_id()? } else { [0; 128] };
                let mut numbers = own.map(f64::from);
                // The sum is the first process's: the others add zeros.
                world.sum_f64(&mut numbers);
                return Ok(Self { rank, size, id: numbers.map(|n| n as u8) });
            };
            let needed = |names: &[&str]| {
                variable(names)?.with_context(|| format!("MASTER_ADDR is set, and {} is not", names.join(" or ")))
            };
            let (rank, size) = (needed(&["RANK", "SLURM_PROCID"])?, needed(&["WORLD_SIZE", "SLURM_NTASKS"])?);
            ensure!(rank < size, "process {rank} of {size}: RANK begins at 0");
            // torchrun may keep the port for a store of its own.
            let is_taken = variable::<String>(&["TORCHELASTIC_USE_AGENT_STORE"])?.is_some_and(|v| v == "True");
            let port = variable::<u16>(&["MASTER_PORT"])?.unwrap_or(29_500) + u16::from(is_taken);
            let place = (address.as_str(), port);
            let id = if rank == 0 {
                let id = nccl_id()?;
                let listener =
                    TcpListener::bind(place).with_context(|| format!("cannot listen at {address}:{port}"))?;
                invite(&listener, &id, size, PATIENCE)?;
                id
            } else {
                ask(place, rank, PATIENCE)
                    .with_context(|| format!("no word from the first process at {address}:{port}"))?
            };
            Ok(Self { rank, size, id })
        }

        /// Joins with `device`.
        pub(super) fn accept(self, device: Device) -> Result<Nccl> {
            let Device::Cuda(ordinal) = device else {
                return Err(Misuse("--parallel nccl is for GPUs; on the CPU there is --parallel mpi".into()).into());
            };
            tracing::info!(rank = self.rank, processes = self.size, "joining by NCCL");
            Ok(Nccl::join(ordinal, &self.id, self.rank, self.size)?)
        }
    }

    /// The first of some environment variables that is set.
    fn variable<T: FromStr>(names: &[&str]) -> Result<Option<T>> {
        let Some((name, text)) = names.iter().find_map(|name| Some((name, std::env::var(name).ok()?))) else {
            return Ok(None);
        };
        text.parse().map(Some).map_err(|_| anyhow::anyhow!("{name}={text} makes no sense"))
    }

    /// Tells the id to every other process.
    fn invite(listener: &TcpListener, id: &NcclId, size: usize, patience: Duration) -> Result<()> {
        listener.set_nonblocking(true)?;
        let begun = Instant::now();
        let mut told = vec![false; size];
        told[0] = true;
        while told.contains(&false) {
            match listener.accept() {
                // Whoever else may call is no reason to stop.
                Ok((stream, _)) => match tell(stream, id, size) {
                    Ok(rank) => told[rank] = true,
                    Err(error) => tracing::debug!(%error, "somebody else called"),
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if begun.elapsed() > patience {
                        let missing = told.iter().filter(|t| !**t).count();
                        bail!("{missing} of {size} processes did not come within {} s", patience.as_secs());
                    }
                    std::thread::sleep(PAUSE);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn tell(mut stream: TcpStream, id: &NcclId, size: usize) -> io::Result<usize> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(TALK))?;
        let mut said = [0; 12];
        stream.read_exact(&mut said)?;
        let rank = u32::from_le_bytes([said[8], said[9], said[10], said[11]]) as usize;
        if said[..8] != *GREETING || rank == 0 || rank >= size {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not one of ours"));
        }
        stream.write_all(id)?;
        Ok(rank)
    }

    /// Asks the first process for the id, until it is there.
    fn ask(place: (&str, u16), rank: usize, patience: Duration) -> Result<NcclId> {
        let begun = Instant::now();
        loop {
            match ask_once(place, rank) {
                Ok(id) => return Ok(id),
                Err(error) if begun.elapsed() > patience => return Err(error.into()),
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
    }

    fn ask_once(place: (&str, u16), rank: usize) -> io::Result<NcclId> {
        let mut stream = TcpStream::connect(place)?;
        stream.set_read_timeout(Some(TALK))?;
        stream.write_all(GREETING)?;
        stream.write_all(&u32::try_from(rank).unwrap_or(u32::MAX).to_le_bytes())?;
        let mut id = [0; 128];
        stream.read_exact(&mut id)?;
        Ok(id)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn every_process_gets_the_id_of_the_first_whoever_else_calls() {
            let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            let id: NcclId = std::array::from_fn(|i| i as u8);
            std::thread::scope(|scope| {
                let first = scope.spawn(|| invite(&listener, &id, 3, TALK));
                TcpStream::connect(("127.0.0.1", port)).unwrap().write_all(b"GET / HTTP/1.1\r\n").unwrap();
                let others = [1, 2].map(|rank| scope.spawn(move || ask(("127.0.0.1", port), rank, TALK)));
                for other in others {
                    assert_eq!(other.join().unwrap().unwrap(), id);
                }
                first.join().unwrap().unwrap();
            });
        }

        #[test]
        fn who_does_not_come_is_not_waited_for_for_ever() {
            let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
            let error = invite(&listener, &[0; 128], 2, Duration::ZERO).unwrap_err();
            assert_eq!(error.to_string(), "1 of 2 processes did not come within 0 s");
        }
    }
}
