//! The rules by which a machine is divided between a server and the clients that load it. Pure: a
//! [`Machine`] in, two lists of hardware threads out.

use super::Machine;

/// Hardware threads for a server and for its clients on the same machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sides {
    /// The server's, by the operating system's numbers.
    pub server: Vec<usize>,
    /// The clients'.
    pub clients: Vec<usize>,
    /// What both have to do with.
    pub shared: Shared,
}

/// What a server and its clients on the same machine have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shared {
    /// Each side has physical cores of its own.
    Nothing,
    /// Some hardware threads of the two are siblings (SMT): each slows the other down.
    Cores,
    /// They run on the same hardware threads.
    Threads,
}

impl Machine {
    /// Divides what this process may use of the machine; a side that is given stays as it is.
    ///
    /// Each side gets physical cores of its own, of each the first hardware thread: siblings are no
    /// two cores, and one that is at work slows the other down. So the siblings stay idle. Of the cores, the
    /// server gets the first half, or all that the clients do not have. Where no core is left for the
    /// second side it gets what hardware threads are left, and where there are none, the same ones.
    #[must_use]
    pub fn sides(&self, server: Option<&[usize]>, clients: Option<&[usize]>) -> Sides {
        let cores = self.allowed_by_core();
        let (server, clients) = match (server, clients) {
            (Some(server), Some(clients)) => (server.to_vec(), clients.to_vec()),
            (Some(server), None) => (server.to_vec(), beside(&cores, server)),
            (None, Some(clients)) => (beside(&cores, clients), clients.to_vec()),
            (None, None) => {
                let half = cores.len().div_ceil(2);
                let server: Vec<usize> = firsts(&cores[..half]).collect();
                let clients = beside(&cores, &server);
                (server, clients)
            }
        };
        let core_of = |thread: usize| cores.iter().position(|core| core.contains(&thread));
        let shared = if server.iter().any(|thread| clients.contains(thread)) {
            Shared::Threads
        } else if clients.iter().any(|&client| {
            let core = core_of(client);
            core.is_some() && server.iter().any(|&thread| core_of(thread) == core)
        }) {
            Shared::Cores
        } else {
            Shared::Nothing
        };
        Sides {
            server,
            clients,
            shared,
        }
    }

    /// The hardware threads that this process may use, of each core that has some: node by node, and within
    /// a node in the hardware's order.
    fn allowed_by_core(&self) -> Vec<Vec<usize>> {
        let mut cores: Vec<_> = self.cores.iter().collect();
        cores.sort_by_key(|core| core.numa_node);
        let allowed = cores.into_iter().map(|core| {
            let pus = core.pus.iter().filter(|pu| pu.allowed);
            pus.map(|pu| pu.os_index).collect::<Vec<_>>()
        });
        allowed.filter(|threads| !threads.is_empty()).collect()
    }
}

/// What is left beside those that are `taken`.
fn beside(cores: &[Vec<usize>], taken: &[usize]) -> Vec<usize> {
    let is_free = |thread: &usize| !taken.contains(thread);
    let free = cores.iter().filter(|core| core.iter().all(is_free));
    let whole: Vec<usize> = firsts(free).collect();
    if !whole.is_empty() {
        return whole;
    }
    let threads = || cores.iter().flatten().copied();
    let siblings: Vec<usize> = threads().filter(is_free).collect();
    if siblings.is_empty() {
        return threads().collect();
    }
    siblings
}

/// The first hardware thread of each core.
fn firsts<'a>(cores: impl IntoIterator<Item = &'a Vec<usize>>) -> impl Iterator<Item = usize> {
    cores.into_iter().filter_map(|core| core.first().copied())
}

#[cfg(test)]
mod tests {
    use super::super::{Core, Pu};
    use super::*;
    use proptest::prelude::*;

    /// Cores of one NUMA node, as their hardware threads.
    fn machine(cores: &[&[usize]]) -> Machine {
        let pu = |&os_index: &usize| Pu {
            os_index,
            allowed: true,
        };
        let core = |threads: &&[usize]| Core {
            numa_node: 0,
            pus: threads.iter().map(pu).collect(),
        };
        Machine {
            cores: cores.iter().map(core).collect(),
        }
    }

    fn sides(server: &[usize], clients: &[usize], shared: Shared) -> Sides {
        Sides {
            server: server.to_vec(),
            clients: clients.to_vec(),
            shared,
        }
    }

    #[test]
    fn siblings_are_never_on_two_sides() {
        // As Linux numbers them on Intel's and on some of AMD's and most virtual machines.
        let apart = machine(&[&[0, 4], &[1, 5], &[2, 6], &[3, 7]]);
        let expected = sides(&[0, 1], &[2, 3], Shared::Nothing);
        assert_eq!(apart.sides(None, None), expected);
        let beside = machine(&[&[0, 1], &[2, 3]]);
        let expected = sides(&[0], &[2], Shared::Nothing);
        assert_eq!(beside.sides(None, None), expected);
    }

    #[test]
    fn without_siblings_it_is_the_first_half() {
        let machine = machine(&[&[0], &[1], &[2]]);
        let expected = sides(&[0, 1], &[2], Shared::Nothing);
        assert_eq!(machine.sides(None, None), expected);
    }

    #[test]
    fn one_core_is_shared_and_said_to_be() {
        let two_threads = machine(&[&[0, 1]]);
        assert_eq!(
            two_threads.sides(None, None),
            sides(&[0], &[1], Shared::Cores)
        );
        let one = machine(&[&[3]]);
        assert_eq!(one.sides(None, None), sides(&[3], &[3], Shared::Threads));
    }

    #[test]
    fn a_side_that_is_given_leaves_the_other_cores() {
        let machine = machine(&[&[0, 4], &[1, 5], &[2, 6], &[3, 7]]);
        let given = machine.sides(Some(&[0, 4, 5]), None);
        assert_eq!(given, sides(&[0, 4, 5], &[2, 3], Shared::Nothing));
        let given = machine.sides(None, Some(&[1]));
        assert_eq!(given, sides(&[0, 2, 3], &[1], Shared::Nothing));
        let given = machine.sides(Some(&[0, 1, 2, 3]), None);
        assert_eq!(given, sides(&[0, 1, 2, 3], &[4, 5, 6, 7], Shared::Cores));
        let given = machine.sides(Some(&[0]), Some(&[4]));
        assert_eq!(given.shared, Shared::Cores);
        let given = machine.sides(Some(&[0, 1]), Some(&[1]));
        assert_eq!(given.shared, Shared::Threads);
    }

    proptest! {
        #[test]
        fn nothing_is_shared_where_there_are_two_cores(
            threads in proptest::collection::vec((1usize..4, any::<bool>()), 2..20),
        ) {
            let mut next = 0;
            let cores: Vec<Vec<usize>> = threads
                .iter()
                .map(|&(count, _)| {
                    next += count;
                    (next - count..next).collect()
                })
                .collect();
            let lists: Vec<&[usize]> = cores.iter().map(Vec::as_slice).collect();
            let mut machine = machine(&lists);
            for (core, &(_, allowed)) in machine.cores.iter_mut().zip(&threads).skip(2) {
                core.pus.iter_mut().for_each(|pu| pu.allowed = allowed);
            }
            let Sides { server, clients, shared } = machine.sides(None, None);
            prop_assert_eq!(shared, Shared::Nothing);
            prop_assert!(!server.is_empty() && !clients.is_empty());
            let allowed = machine.allowed();
            prop_assert!(server.iter().chain(&clients).all(|thread| allowed.contains(thread)));
        }
    }
}
