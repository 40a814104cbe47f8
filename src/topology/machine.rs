//! What this machine looks like: cores, their hardware threads, their NUMA nodes.

use hwlocality::Topology;
use hwlocality::cpu::binding::CpuBindingFlags;
use hwlocality::cpu::cpuset::CpuSet;
use hwlocality::object::TopologyObject;
use hwlocality::object::types::ObjectType;
use hwlocality::topology::builder::BuildFlags;

use super::TopologyError;

/// The part of a machine that placing shards depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Physical cores, in the order of the hardware.
    pub cores: Vec<Core>,
}

/// A physical core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Core {
    /// Its NUMA node, by the operating system's number.
    pub numa_node: usize,
    /// Its hardware threads (SMT siblings), at least one.
    pub pus: Vec<Pu>,
}

/// A hardware thread ("processing unit"): what the operating system calls a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pu {
    /// The operating system's number.
    pub os_index: usize,
    /// Whether this process may run there: cgroup cpuset and affinity mask allow it.
    pub allowed: bool,
}

impl Machine {
    /// Examines this machine as the calling thread may use it.
    ///
    /// # Errors
    /// When hwloc cannot read the machine or the thread's affinity.
    pub fn detect() -> Result<Machine, TopologyError> {
        // With the disallowed resources included, a core that exists but is not ours can be told
        // from one that does not exist.
        let topology = Topology::builder()
            .with_flags(BuildFlags::INCLUDE_DISALLOWED)
            .map_err(|error| TopologyError::Unknown(error.to_string()))?
            .build()
            .map_err(|error| TopologyError::Unknown(error.to_string()))?;
        let affinity = topology
            .cpu_binding(CpuBindingFlags::THREAD)
            .map_err(|error| TopologyError::Unknown(error.to_string()))?;
        let allowed = &affinity & topology.allowed_cpuset();
        Ok(Machine::from_topology(&topology, &allowed))
    }

    fn from_topology(topology: &Topology, allowed: &CpuSet) -> Machine {
        let mut cores: Vec<(u64, Core)> = Vec::new();
        for pu in topology.objects_with_type(ObjectType::PU) {
            let Some(os_index) = pu.os_index() else {
                continue;
            };
            // Where the system knows no cores (some virtual machines), each hardware thread is one.
            let core = pu.first_ancestor_with_type(ObjectType::Core).unwrap_or(pu);
            let pu = Pu {
                os_index,
                allowed: allowed.is_set(os_index),
            };
            match cores
                .iter_mut()
                .find(|(id, _)| *id == core.global_persistent_index())
            {
                Some((_, core)) => core.pus.push(pu),
                None => cores.push((
                    core.global_persistent_index(),
                    Core {
                        numa_node: numa_node(core),
                        pus: vec![pu],
                    },
                )),
            }
        }
        Machine {
            cores: cores.into_iter().map(|(_, core)| core).collect(),
        }
    }

    /// The hardware threads that this process may use, ascending.
    pub fn allowed(&self) -> Vec<usize> {
        let mut allowed: Vec<usize> = self
            .pus()
            .filter(|(_, pu)| pu.allowed)
            .map(|(_, pu)| pu.os_index)
            .collect();
        allowed.sort_unstable();
        allowed
    }

    /// All hardware threads with the index of their core.
    pub(super) fn pus(&self) -> impl Iterator<Item = (usize, Pu)> {
        self.cores
            .iter()
            .enumerate()
            .flat_map(|(index, core)| core.pus.iter().map(move |&pu| (index, pu)))
    }
}

/// The first NUMA node that the object is close to. Node 0 where the system knows no nodes.
fn numa_node(object: &TopologyObject) -> usize {
    let Some(nodes) = object.nodeset() else {
        return 0;
    };
    nodes.iter_set().next().map_or(0, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn synthetic(description: &str) -> Machine {
        let topology = Topology::builder()
            .from_synthetic(description)
            .unwrap()
            .build()
            .unwrap();
        let all = topology.cpuset().clone_target();
        Machine::from_topology(&topology, &all)
    }

    #[test]
    fn two_sockets_with_smt() {
        let machine = synthetic("package:2 [numa] core:4 pu:2");
        assert_eq!(machine.cores.len(), 8);
        let nodes: Vec<usize> = machine.cores.iter().map(|core| core.numa_node).collect();
        assert_eq!(nodes, [0, 0, 0, 0, 1, 1, 1, 1]);
        assert!(machine.cores.iter().all(|core| core.pus.len() == 2));
        assert_eq!(machine.allowed(), (0..16).collect::<Vec<_>>());
    }

    #[test]
    fn a_machine_without_core_objects_has_a_core_per_thread() {
        let machine = synthetic("numa:1 pu:3");
        assert_eq!(machine.cores.len(), 3);
    }

    #[test]
    fn what_the_mask_excludes_is_there_but_not_allowed() {
        let topology = Topology::builder()
            .from_synthetic("core:2 pu:2")
            .unwrap()
            .build()
            .unwrap();
        let mut mask = CpuSet::new();
        mask.set(1);
        mask.set(2);
        let machine = Machine::from_topology(&topology, &mask);
        assert_eq!(machine.pus().count(), 4);
        assert_eq!(machine.allowed(), [1, 2]);
    }

    #[test]
    fn this_machine_can_be_examined_and_agrees_with_the_kernel() {
        let machine = Machine::detect().unwrap();
        let mask = rustix::thread::sched_getaffinity(None).unwrap();
        let expected: Vec<usize> = (0..rustix::thread::CpuSet::MAX_CPU)
            .filter(|&cpu| mask.is_set(cpu))
            .collect();
        assert_eq!(machine.allowed(), expected);
    }

    #[test]
    fn a_pinned_thread_sees_only_its_core() {
        let first = Machine::detect().unwrap().allowed()[0];
        let allowed = std::thread::spawn(move || {
            super::super::pin_current_thread(first).unwrap();
            Machine::detect().unwrap().allowed()
        });
        assert_eq!(allowed.join().unwrap(), [first]);
    }
}
