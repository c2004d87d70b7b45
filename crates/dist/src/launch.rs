//! Who started this process, and as which rank of how many: read from the variables that launchers set.

use crate::Error;

/// What started the ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launcher {
    /// Slurm's `srun`.
    Slurm,
    /// Open MPI's `mpirun`.
    OpenMpi,
    /// Hydra: `mpiexec` of MPICH and Intel MPI.
    Hydra,
    /// PMIx: `prun`, or a site's own launcher.
    Pmix,
    /// torchrun, Kubernetes' training operator, Ray: `RANK` and `WORLD_SIZE`.
    Torchrun,
}

impl Launcher {
    /// As its users call it.
    pub fn name(self) -> &'static str {
        match self {
            Launcher::Slurm => "srun",
            Launcher::OpenMpi => "mpirun (Open MPI)",
            Launcher::Hydra => "mpiexec (Hydra)",
            Launcher::Pmix => "PMIx",
            Launcher::Torchrun => "torchrun or Kubernetes (RANK, WORLD_SIZE)",
        }
    }

    /// Whether it brings MPI's ranks together.
    pub fn speaks_mpi(self) -> bool {
        self != Launcher::Torchrun
    }
}

/// One process of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// What started it.
    pub launcher: Launcher,
    /// Its rank, from 0.
    pub rank: usize,
    /// How many there are.
    pub size: usize,
    /// How many of them are on this machine, where the launcher says so.
    pub local_size: Option<usize>,
}

/// Variables of the rank, of the number of ranks, of those on this machine; for `srun`, the number of ranks is one of its step's:
/// the batch script around it has a rank too.
#[rustfmt::skip] // a table: one row, one line
const KNOWN: [(Launcher, [&str; 3]); 5] = [
    (Launcher::OpenMpi, ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"]),
    (Launcher::Torchrun, ["RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"]),
    (Launcher::Slurm, ["SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_TASKS_PER_NODE"]),
    (Launcher::Hydra, ["PMI_RANK", "PMI_SIZE", "MPI_LOCALNRANKS"]),
    (Launcher::Pmix, ["PMIX_RANK", "PMIX_SIZE", "PMIX_LOCAL_SIZE"]),
];

/// What the variables say; `None` where no launcher set any.
///
/// Errors: a variable that is no number, a rank beyond the number of ranks.
pub fn detect(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Launch>, Error> {
    for (launcher, [rank, size, local]) in KNOWN {
        let (Some(rank_text), Some(size_text)) = (variable(rank), variable(size)) else { continue };
        let number = |name: &str, text: &str| {
            text.parse::<usize>().map_err(|_| Error::Launch {
                what: format!("{name}={text}, set by {}: expected a whole number", launcher.name()),
            })
        };
        let (own, all) = (number(rank, &rank_text)?, number(size, &size_text)?);
        if own >= all {
            let what = format!("{rank}={own} is not below {size}={all}, set by {}", launcher.name());
            return Err(Error::Launch { what });
        }
        // `2(x3)` is Slurm's way to say two on each of three machines.
        let first_number = |text: String| text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
        let local_size = variable(local).and_then(first_number).filter(|n| *n > 0);
        return Ok(Some(Launch { launcher, rank: own, size: all, local_size }));
    }
    Ok(None)
}
