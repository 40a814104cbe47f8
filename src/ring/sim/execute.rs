//! What the kernel does with a request, at once and in the order of submission.

use super::socket::{Send, SocketId};
use super::world::{Request, World, plain};
use crate::ring::{BufferClass, BufferId, Completion, Op, Slot, Token};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};

impl World {
    /// Executes everything that a ring has queued.
    pub(super) fn submit(&mut self, ring: usize) {
        self.shut_down_some(ring);
        while let Some(request) = self.rings[ring].queue.pop_front() {
            self.counters.requests += 1;
            self.execute(ring, request);
        }
        let state = &self.rings[ring];
        let free = state.table.iter().filter(|place| place.is_none()).count();
        self.counters.accepts_beyond_slots += u64::from(state.accepts.len() > free);
    }

    fn execute(&mut self, ring: usize, request: Request) {
        match request {
            Request::Accept { listener, token } => {
                self.rings[ring].accepts.push_back((listener, token));
                self.accept_waiting(ring);
            }
            Request::StopAccepting => self.stop_accepting(ring),
            Request::Poll { slot, token } => self.arm(ring, slot, token),
            Request::Receive { slot, class, token } => {
                let completion = self.receive(ring, slot, class, token);
                self.complete(ring, completion);
            }
            Request::Send {
                slot,
                payload,
                start,
                end,
                token,
            } => {
                let send = Send {
                    ring,
                    slot,
                    token,
                    payload,
                    start,
                    end,
                    done: 0,
                };
                self.send(send);
            }
            Request::Shutdown { slot, how, token } => {
                self.rings[ring].shutdowns.push((slot, how, token));
                self.shut_down_some(ring);
            }
            Request::Close {
                slot,
                key,
                generation,
                armed,
            } => self.close(ring, slot, key, generation, &armed),
            Request::HandOver {
                slot,
                to,
                arrival,
                token,
            } => self.hand_over(ring, slot, to, arrival, token),
            Request::Wake { to } => {
                self.complete(to, plain(Token::new(Op::Wake, ring as u32, 0), 0))
            }
        }
    }

    /// Lets shutdowns find their slots. The kernel leaves them to a thread that looks the slot up when
    /// it comes to it: by then the requests behind them may have taken effect.
    fn shut_down_some(&mut self, ring: usize) {
        let mut at = 0;
        while at < self.rings[ring].shutdowns.len() {
            let held = self.hold == Some(Op::Shutdown);
            if held || self.random.chance(self.faults.slow_shutdowns) {
                at += 1;
            } else {
                let (slot, how, token) = self.rings[ring].shutdowns.remove(at);
                self.shut_down(ring, slot, how, token);
            }
        }
    }

    fn shut_down(&mut self, ring: usize, slot: Slot, how: Shutdown, token: Token) {
        let socket = self.in_slot(ring, slot, token);
        let state = &mut self.sockets[socket.0];
        let result = if state.client_gone {
            -libc::ENOTCONN
        } else {
            0
        };
        state.server_fin = true;
        let mut cut = Vec::new();
        if how == Shutdown::Both {
            state.server_deaf = true;
            cut.extend(state.sends.drain(..));
        }
        assert!(
            state.sends.is_empty(),
            "{token:?} while a send is in flight"
        );
        for send in cut {
            let result = match send.done {
                0 => -libc::EPIPE,
                done => done as i32,
            };
            self.complete(send.ring, plain(send.token, result));
        }
        self.edge(socket, false);
        self.complete(ring, plain(token, result));
    }

    /// Gives waiting connections to waiting accepts.
    pub(super) fn accept_waiting(&mut self, ring: usize) {
        loop {
            let state = &mut self.rings[ring];
            let Some(at) = state
                .accepts
                .iter()
                .position(|(listener, _)| !state.listeners[usize::from(*listener)].1.is_empty())
            else {
                return;
            };
            let (listener, token) = state.accepts.remove(at).expect("its position");
            let backlog = &mut state.listeners[usize::from(listener)].1;
            if self.random.chance(self.faults.accept_errors) {
                let error = *self.random.pick(&[
                    libc::ENOMEM,
                    libc::ECONNABORTED,
                    libc::EMFILE,
                    libc::EINTR,
                ]);
                if error == libc::ECONNABORTED
                    && let Some(socket) = backlog.pop_front()
                {
                    self.fail(socket, libc::ECONNRESET);
                }
                self.complete(ring, plain(token, -error));
                continue;
            }
            let Some(socket) = backlog.pop_front() else {
                return;
            };
            let result = match self.install(ring, socket) {
                Some(slot) => {
                    let state = &mut self.rings[ring];
                    let address = SocketAddr::from((
                        Ipv4Addr::LOCALHOST,
                        10_000 + (socket.0 % 50_000) as u16,
                    ));
                    let tcp = self.sockets[socket.0].kind == super::Kind::Tcp;
                    state.peers[token.key() as usize] = tcp.then_some(address);
                    self.sockets[socket.0].accepted = true;
                    slot.0 as i32
                }
                None => {
                    // The kernel has taken the connection from the backlog already.
                    self.counters.lost_accepts += 1;
                    self.fail(socket, libc::ECONNRESET);
                    -libc::ENFILE
                }
            };
            self.complete(ring, plain(token, result));
        }
    }

    fn stop_accepting(&mut self, ring: usize) {
        self.rings[ring].listening = false;
        while let Some((_, token)) = self.rings[ring].accepts.pop_front() {
            self.complete(ring, plain(token, -libc::ECANCELED));
        }
        for listener in 0..self.rings[ring].listeners.len() {
            while let Some(socket) = self.rings[ring].listeners[listener].1.pop_front() {
                self.fail(socket, libc::ECONNRESET);
            }
        }
    }

    fn receive(&mut self, ring: usize, slot: Slot, class: BufferClass, token: Token) -> Completion {
        let socket = self.in_slot(ring, slot, token);
        let Self {
            random,
            faults,
            sockets,
            rings,
            counters,
            ..
        } = self;
        let state = &mut sockets[socket.0];
        state.receives_made += 1;
        if random.chance(faults.interrupted) {
            return plain(token, -libc::EINTR);
        }
        let buffers = rings[ring].buffers(class);
        // The kernel looks for a buffer first, whether there are bytes or not.
        if !buffers.has_free() || random.chance(faults.no_buffers) {
            counters.starved += 1;
            return plain(token, -libc::ENOBUFS);
        }
        if random.chance(faults.receive_errors) {
            let error = *random.pick(&[libc::ETIMEDOUT, libc::ECONNRESET, libc::ENOMEM]);
            self.fail(socket, libc::ECONNRESET);
            return plain(token, -error);
        }
        let available = state.to_server.len();
        if available > 0 {
            let mut length = available.min(buffers.size_bytes());
            if random.chance(faults.short_receives) {
                length = random.skewed(length);
            }
            let bytes: Vec<u8> = state.to_server.drain(..length).collect();
            let index = buffers.fill(bytes);
            // After a FIN the kernel may count it as something to read; a Unix socket never says.
            let fin_counts = state.client_fin && random.chance(500);
            let more = length < available || fin_counts;
            return Completion {
                nonempty: more && state.kind == super::Kind::Tcp,
                buffer: Some(BufferId { class, index }),
                ..plain(token, length as i32)
            };
        }
        if let Some(error) = state.error.take() {
            return plain(token, -error);
        }
        let ended = state.client_fin || state.client_gone;
        plain(token, if ended { 0 } else { -libc::EAGAIN })
    }

    fn send(&mut self, send: Send) {
        let socket = self.in_slot(send.ring, send.slot, send.token);
        let state = &mut self.sockets[socket.0];
        state.sends_made += 1;
        assert!(
            state.sends.is_empty(),
            "{:?} while another send is in flight",
            send.token
        );
        if state.client_gone || state.server_fin {
            let error = state.error.take().unwrap_or(libc::EPIPE);
            self.complete(send.ring, plain(send.token, -error));
            return;
        }
        state.sends.push_back(send);
        if self.random.chance(self.faults.send_errors) {
            if self.random.chance(500) {
                self.make_progress(socket, 0);
            }
            self.fail(socket, libc::ECONNRESET);
            return;
        }
        self.make_progress(socket, usize::MAX);
    }

    /// Moves bytes of a waiting send to the client, as far as its window goes; `limit` at most.
    pub(super) fn make_progress(&mut self, socket: SocketId, limit: usize) {
        let state = &mut self.sockets[socket.0];
        let Some(send) = state.sends.front_mut() else {
            return;
        };
        let left = send.end - send.start - send.done;
        let room = state.window.saturating_sub(state.to_client.len());
        let moved = left.min(room).min(limit);
        let from = send.start + send.done;
        let bytes = &send.payload.as_slice()[from..from + moved];
        if !state.client_closed {
            state.to_client.extend(bytes);
        }
        send.done += moved;
        let total = send.end - send.start;
        if send.done == total
            && let Some(send) = state.sends.pop_front()
        {
            self.complete(send.ring, plain(send.token, total as i32));
        }
        if moved > 0 && self.sockets[socket.0].client_closed {
            self.kill(socket, libc::ECONNRESET);
        }
    }

    /// An injected fault ends a connection.
    pub(super) fn fail(&mut self, socket: SocketId, error: i32) {
        let state = &mut self.sockets[socket.0];
        state.faulted = true;
        state.server_reset = true;
        self.kill(socket, error);
    }

    /// The connection is dead for the server.
    pub(super) fn kill(&mut self, socket: SocketId, error: i32) {
        let state = &mut self.sockets[socket.0];
        if state.client_gone {
            return;
        }
        state.client_gone = true;
        state.error = Some(error);
        while let Some(send) = self.sockets[socket.0].sends.pop_front() {
            let result = if send.done > 0 {
                send.done as i32
            } else {
                -error
            };
            self.complete(send.ring, plain(send.token, result));
        }
        self.edge(socket, false);
    }

    /// Cancels the named requests of one slot, then closes it.
    fn close(&mut self, ring: usize, slot: Slot, key: u32, generation: u32, armed: &[Op]) {
        let cancel = Token::new(Op::Cancel, key, generation);
        let socket = self.in_slot(ring, slot, cancel);
        let state = &mut self.sockets[socket.0];
        let mut done = Vec::new();
        for &op in armed {
            let target = Token::new(op, key, generation);
            let mut found = false;
            if let Some(at) = state.sends.iter().position(|send| send.token == target) {
                let send = state.sends.remove(at).expect("its position");
                let result = if send.done > 0 {
                    send.done as i32
                } else {
                    -libc::ECANCELED
                };
                done.push(plain(send.token, result));
                found = true;
            }
            if let Some(at) = state.polls.iter().position(|poll| poll.token == target) {
                let poll = state.polls.remove(at);
                let mask = state.mask();
                found = true;
                let ready = &mut self.rings[ring].ready;
                ready
                    .retain(|entry| entry.polled.is_none() || entry.completion.token != poll.token);
                // An event that came just before may still be told, as one more or as the last.
                let told = if poll.edges.any() && mask != 0 {
                    self.random.below(3)
                } else {
                    0
                };
                if told == 1 {
                    done.push(Completion {
                        more: true,
                        ..plain(poll.token, mask)
                    });
                }
                let last = if told == 2 { mask } else { -libc::ECANCELED };
                done.push(plain(poll.token, last));
            }
            done.push(plain(cancel, if found { 0 } else { -libc::ENOENT }));
        }
        // What still waits would keep the socket open for good.
        let left = state.sends.iter().map(|send| (send.ring, send.slot));
        let left = left.chain(state.polls.iter().map(|poll| (poll.ring, poll.slot)));
        assert!(
            left.into_iter().all(|place| place != (ring, slot)),
            "{cancel:?}: closed with a request that was not cancelled"
        );
        done.push(plain(Token::new(Op::Close, key, generation), 0));
        for completion in done {
            self.complete(ring, completion);
        }
        self.rings[ring].table[slot.0 as usize] = None;
        let state = &mut self.sockets[socket.0];
        state.places.retain(|place| *place != (ring, slot));
        if !state.places.is_empty() {
            return;
        }
        assert!(
            state.server_deaf || !self.closes_late,
            "{cancel:?}: the peer may not hear of this for hours"
        );
        state.server_closed = true;
        state.server_fin = true;
        if !self.closes_late && !state.to_server.is_empty() && !state.client_gone {
            self.reset_to_client(socket);
        }
    }

    /// The server's kernel answers with a reset, which can overtake what was sent.
    pub(super) fn reset_to_client(&mut self, socket: SocketId) {
        let state = &mut self.sockets[socket.0];
        state.server_reset = true;
        state.client_gone = true;
        let kept = self.random.between(0, state.to_client.len());
        if self.random.chance(500) {
            state.to_client.truncate(kept);
        }
    }

    fn hand_over(&mut self, ring: usize, slot: Slot, to: usize, arrival: Token, token: Token) {
        let socket = self.in_slot(ring, slot, token);
        let result = if self.random.chance(self.faults.hand_over_errors) {
            // Rarely, or no table would have places left.
            let overflows = std::mem::take(&mut self.overflow_next) || self.random.chance(10);
            let error = if overflows {
                libc::EOVERFLOW
            } else {
                libc::ENOMEM
            };
            if error == libc::EOVERFLOW
                && let Some(lost) = self.install(to, socket)
            {
                self.rings[to].lost.push(lost);
                self.sockets[socket.0].faulted = true;
            }
            -error
        } else {
            match self.install(to, socket) {
                Some(new) => {
                    self.counters.handed_over += 1;
                    self.complete(to, plain(arrival, new.0 as i32));
                    0
                }
                None => -libc::ENFILE,
            }
        };
        self.complete(ring, plain(token, result));
    }
}
