//! The shards of one simulated server, and the loop around their turns.

use super::super::connection::{ConnectionId, Ms};
use super::super::core::{Clock, Settings};
use super::super::handler::{
    Accept, Audience, Batch, Closed, Context, Dropped, Endpoint, Handler, Kind, MembersPage,
    Message, Page, PresenceEvent, Published, Refusal, Subscribed,
};
use super::super::{Shard, ShardParts};
use crate::config::Config;
use crate::hub::rules::ChannelRules;
use crate::hub::{Position, Publication};
use crate::mesh::{self, Links, Mesh};
use crate::ring::Wait;
use crate::ring::sim::{Kind as SocketKind, RingSetup, SimRing, World};
use crate::session::Session;
use crate::telemetry::counters::Counters;
use crate::wire::close::CloseCode;
use crate::wire::upgrade::{Rejection, Request};
use bytes::Bytes;
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

/// Wall-clock time at the start of every simulation, in milliseconds since the Unix epoch.
const EPOCH_MS: u64 = 1_700_000_000_000;

/// What the handlers of all shards were told.
#[derive(Default)]
pub(super) struct Heard {
    opened: HashMap<ConnectionId, Opened>,
    /// Per client: the messages that it sends in full.
    pub(super) said: Vec<Vec<(Kind, Vec<u8>)>>,
    pub(super) messages: u64,
}

struct Opened {
    client: Option<usize>,
    messages: usize,
    closed: Option<Closed>,
}

impl Heard {
    fn message(&mut self, id: ConnectionId, message: &Message<'_>) {
        self.messages += 1;
        let opened = self
            .opened
            .get_mut(&id)
            .expect("a message before the opening");
        assert_eq!(opened.closed, None, "a message of {id} after its end");
        let Some(client) = opened.client else { return };
        let said = self.said[client].get(opened.messages);
        opened.messages += 1;
        assert!(
            said.is_some_and(|(kind, payload)| *kind == message.kind && payload == message.payload),
            "client {client}'s message {} arrived otherwise than sent: {:?} became {:?}",
            opened.messages,
            said.map(|(_, payload)| String::from_utf8_lossy(payload)),
            String::from_utf8_lossy(message.payload),
        );
    }

    /// Everything that was opened has been closed once.
    pub(super) fn check_closed(&self) {
        for (id, opened) in &self.opened {
            assert!(
                opened.closed.is_some(),
                "the handler never heard of the end of {id}"
            );
        }
    }

    /// Messages of a client that arrived.
    pub(super) fn arrived(&self, client: usize) -> usize {
        self.opened
            .values()
            .filter(|opened| opened.client == Some(client))
            .map(|opened| opened.messages)
            .sum()
    }
}

/// ringwire's own protocol, with every call checked.
pub(super) struct Spy {
    inner: Session,
    heard: Rc<RefCell<Heard>>,
}

impl Handler for Spy {
    fn endpoints(&self) -> Vec<Endpoint> {
        self.inner.endpoints()
    }

    fn upgrade(
        &mut self,
        request: &Request<'_>,
        peer: Option<SocketAddr>,
    ) -> Result<Accept, Rejection> {
        self.inner.upgrade(request, peer)
    }

    fn http(&mut self, request: &Request<'_>, response: &mut Vec<u8>) {
        self.inner.http(request, response);
    }

    fn open(&mut self, context: &mut Context<'_>, connection: ConnectionId, request: &Request<'_>) {
        let client = request.query.and_then(|query| query.parse().ok());
        let opened = Opened {
            client,
            messages: 0,
            closed: None,
        };
        let before = self.heard.borrow_mut().opened.insert(connection, opened);
        assert!(before.is_none(), "{connection} was opened twice");
        self.inner.open(context, connection, request);
    }

    fn message(
        &mut self,
        context: &mut Context<'_>,
        connection: ConnectionId,
        message: Message<'_>,
    ) {
        self.heard.borrow_mut().message(connection, &message);
        self.inner.message(context, connection, message);
    }

    fn close(&mut self, context: &mut Context<'_>, connection: ConnectionId, closed: &Closed) {
        {
            let mut heard = self.heard.borrow_mut();
            let opened = heard
                .opened
                .get_mut(&connection)
                .expect("an end without an opening");
            assert_eq!(opened.closed, None, "{connection} ended twice");
            opened.closed = Some(closed.clone());
        }
        self.inner.close(context, connection, closed);
    }

    fn subscribed(
        &mut self,
        context: &mut Context<'_>,
        connection: ConnectionId,
        subscribed: &Subscribed<'_>,
    ) {
        self.inner.subscribed(context, connection, subscribed);
    }

    fn history(
        &mut self,
        context: &mut Context<'_>,
        connection: ConnectionId,
        page: &Page,
        tag: &Bytes,
    ) {
        self.inner.history(context, connection, page, tag);
    }

    fn abandoned(
        &mut self,
        context: &mut Context<'_>,
        connection: ConnectionId,
        channel: &str,
        tag: &Bytes,
    ) {
        self.inner.abandoned(context, connection, channel, tag);
    }

    fn published(
        &mut self,
        context: &mut Context<'_>,
        connection: ConnectionId,
        position: Position,
        tag: &Bytes,
    ) {
        self.inner.published(context, connection, position, tag);
    }

    fn members(
        &mut self,
        context: &mut Context<'_>,
        connection: ConnectionId,
        page: &MembersPage,
        tag: &Bytes,
    ) {
        self.inner.members(context, connection, page, tag);
    }

    fn sent(
        &mut self,
        context: &mut Context<'_>,
        connection: ConnectionId,
        connections: u64,
        tag: &Bytes,
    ) {
        self.inner.sent(context, connection, connections, tag);
    }

    fn refused(
        &mut self,
        context: &mut Context<'_>,
        connection: ConnectionId,
        refusal: Refusal,
        tag: Option<&Bytes>,
    ) {
        self.inner.refused(context, connection, refusal, tag);
    }

    fn encode(&mut self, message: &Published<'_>, payload: &mut Vec<u8>) -> Kind {
        self.inner.encode(message, payload)
    }

    fn encode_entry(&mut self, message: &Published<'_>, entries: &mut Vec<u8>) {
        self.inner.encode_entry(message, entries);
    }

    fn encode_batch(batch: &Batch<'_>, payload: &mut Vec<u8>) -> Kind {
        Session::encode_batch(batch, payload)
    }

    fn encode_dropped(dropped: &Dropped<'_>, payload: &mut Vec<u8>) -> Option<Kind> {
        Session::encode_dropped(dropped, payload)
    }

    fn encode_presence(
        &mut self,
        form: u8,
        channel: &str,
        event: &PresenceEvent,
        payload: &mut Vec<u8>,
    ) -> Kind {
        self.inner.encode_presence(form, channel, event, payload)
    }

    fn encode_direct(
        &mut self,
        form: u8,
        publication: &Publication,
        audience: Audience,
        payload: &mut Vec<u8>,
    ) -> Kind {
        self.inner
            .encode_direct(form, publication, audience, payload)
    }

    fn farewell(
        endpoint: u8,
        code: CloseCode,
        reason: &str,
        payload: &mut Vec<u8>,
    ) -> Option<Kind> {
        Session::farewell(endpoint, code, reason, payload)
    }
}

/// One shard and its place in the loop.
pub(super) struct Node {
    /// `None` when it has ended.
    pub(super) shard: Option<Shard<SimRing, Spy>>,
    /// It turns again without waiting for anything.
    pub(super) busy: bool,
    pub(super) counters: Arc<Counters>,
}

/// A server of several shards.
pub(super) struct Server {
    pub(super) world: Rc<RefCell<World>>,
    pub(super) nodes: Vec<Node>,
    pub(super) links: Arc<Links>,
    pub(super) heard: Rc<RefCell<Heard>>,
}

impl Server {
    /// A server of `shards` shards, alike but for the order of their listeners.
    pub(super) fn new(seed: u64, shards: usize, setup: &RingSetup, config: &Config) -> Self {
        let world = Rc::new(RefCell::new(World::new(seed)));
        let heard = Rc::new(RefCell::new(Heard::default()));
        let (links, inboxes) = Links::new(shards);
        let rules = ChannelRules::new(&config.channels);
        let nodes = inboxes
            .into_iter()
            .enumerate()
            .map(|(index, inbox)| {
                // A listener's number means something only on its own shard.
                let mut setup = setup.clone();
                let listeners = setup.listeners.len();
                setup.listeners.rotate_left(index % listeners);
                let counters = Arc::new(Counters::new(rules.len()));
                let spy = Spy {
                    inner: Session::new(config),
                    heard: Rc::clone(&heard),
                };
                let parts = ShardParts {
                    index: index as u16,
                    settings: Settings::new(config),
                    mesh: Mesh::new(
                        index,
                        Arc::clone(&links),
                        inbox,
                        config.client.mesh_pending_bytes,
                    ),
                    seed,
                    random: seed.wrapping_mul(31).wrapping_add(index as u64),
                    rules: rules.clone(),
                    counters: Arc::clone(&counters),
                    unix_listeners: setup
                        .listeners
                        .iter()
                        .map(|kind| *kind == SocketKind::Unix)
                        .collect(),
                };
                Node {
                    shard: Some(Shard::new(SimRing::new(&world, &setup), spy, parts)),
                    busy: true,
                    counters,
                }
            })
            .collect();
        Self {
            world,
            nodes,
            links,
            heard,
        }
    }

    /// A turn of one shard, or its sleep: what [`super::super::run::run`] does. Returns whether it
    /// turned.
    pub(super) fn step(&mut self, index: usize) -> bool {
        let clock = self.clock();
        let node = &mut self.nodes[index];
        let Some(shard) = &mut node.shard else {
            return false;
        };
        let parked = self.world.borrow().is_parked(index);
        if parked {
            // The alarm goes off.
            let due = shard.core.local.due_in_ms(clock.elapsed_ms) == Some(0);
            if !due && !self.world.borrow().has_completions(index) {
                return false;
            }
            self.world.borrow_mut().set_parked(index, false);
            shard
                .gather(Wait::Look)
                .expect("the simulated ring does not fail");
        } else if node.busy {
            shard
                .gather(Wait::Look)
                .expect("the simulated ring does not fail");
        } else {
            use crate::ring::Ring as _;
            let wait = Wait::For {
                timeout_us: 100,
                min_wait_us: 0,
            };
            let (ring, core, completions) = (&mut shard.ring, &shard.core, &mut shard.completions);
            ring.sleep(wait, || !core.mesh.is_idle(), completions)
                .expect("the simulated ring does not fail");
            if self.world.borrow().is_parked(index) {
                return false;
            }
        }
        let turn = shard.turn(clock);
        node.busy = turn.more || turn.held_back;
        if turn.ended {
            self.world
                .borrow_mut()
                .note(|| format!("shard {index} has ended"));
            node.shard = None;
        }
        true
    }

    pub(super) fn clock(&self) -> Clock {
        let now_ms = self.world.borrow().now_ms;
        Clock {
            now: Ms(now_ms as u32),
            elapsed_ms: now_ms,
            unix_ms: EPOCH_MS + now_ms,
        }
    }

    /// Whether nothing will happen any more unless somebody outside does something.
    ///
    /// # Panics
    /// When a shard sleeps on a full inbox: a wake-up was lost.
    pub(super) fn is_at_rest(&self) -> bool {
        let world = self.world.borrow();
        let at_rest = self.nodes.iter().enumerate().all(|(index, node)| {
            {
                node.shard.as_ref().is_none_or(|shard| {
                    let gathers = shard.core.local.due_in_ms(world.now_ms).is_some();
                    !node.busy
                        && !gathers
                        && world.is_parked(index)
                        && !world.has_completions(index)
                })
            }
        });
        if at_rest {
            for (index, node) in self.nodes.iter().enumerate() {
                let idle = node
                    .shard
                    .as_ref()
                    .is_none_or(|shard| shard.mesh().is_idle());
                assert!(
                    idle,
                    "shard {index} sleeps while a batch waits in its inbox"
                );
            }
        }
        at_rest
    }

    /// Everybody turns until nothing happens any more.
    pub(super) fn rest(&mut self) {
        for _ in 0..10_000 {
            for index in 0..self.nodes.len() {
                self.step(index);
            }
            if self.is_at_rest() {
                return;
            }
        }
        panic!("the server does not come to rest");
    }

    /// Lets time pass in small steps.
    pub(super) fn wait(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(10) {
            self.world.borrow_mut().advance(10);
            self.rest();
        }
    }

    /// Tells a shard something from outside, as the server's main thread does.
    pub(super) fn tell(&mut self, index: usize, message: mesh::Message) {
        if self.nodes[index].shard.is_some() {
            self.links
                .send_from_outside(index, message)
                .expect("the shard lives");
            self.world.borrow_mut().wake_from_outside(index);
        }
    }

    /// The shard with this index, which lives.
    pub(super) fn shard(&mut self, index: usize) -> &mut Shard<SimRing, Spy> {
        self.nodes[index].shard.as_mut().expect("the shard lives")
    }

    /// Nothing is left of any connection.
    ///
    /// # Panics
    /// When something is.
    pub(super) fn check_empty(&mut self) {
        for index in 0..self.nodes.len() {
            let node = &self.nodes[index];
            if let Some(shard) = &node.shard {
                let core = &shard.core;
                assert!(
                    core.connections.is_empty(),
                    "shard {index} keeps connections"
                );
                assert_eq!(core.open, 0, "open connections of shard {index}");
                assert!(core.local.is_empty(), "shard {index} keeps channels");
                assert!(core.users.is_empty(), "shard {index} keeps users");
                assert!(core.unanswered.is_empty(), "shard {index} keeps questions");
                assert!(!core.home.has_members(), "shard {index} keeps members");
                assert_eq!(core.home.admitted(), 0, "admissions of shard {index}");
                assert_eq!(core.home.wildcards(), 0, "wildcards of shard {index}");
                assert!(
                    core.directory.is_empty(),
                    "shard {index} keeps places of users"
                );
                assert!(
                    shard.reading.is_idle(),
                    "shard {index} counts receives that are over"
                );
                // What is still promised: to accepts in flight, and to nobody when they are stopped.
                assert_eq!(
                    self.links.places(index),
                    shard.accepting.in_flight() + self.world.borrow().lost_places(index),
                    "places kept in the table of shard {index}"
                );
                let left = self.world.borrow().left_over(index);
                assert!(left.is_empty(), "ring {index}: {left:?}");
                assert_eq!(
                    self.links.connections(index),
                    0,
                    "connections counted for shard {index}"
                );
            }
            assert_eq!(
                node.counters.connections.get(),
                0,
                "counter of shard {index}"
            );
            assert_eq!(node.counters.open.get(), 0, "counter of shard {index}");
        }
        self.heard.borrow().check_closed();
    }

    /// Where everything has arrived, channels have no more subscribers than they may have, and homes know
    /// how many that are.
    ///
    /// # Panics
    /// When one does not.
    pub(super) fn check_admitted(&self) {
        let mut admitted: HashMap<(u16, u32), u32> = HashMap::new();
        for node in &self.nodes {
            let Some(shard) = &node.shard else { return };
            for (home, number, subscribers) in shard.core.local.with_admission() {
                subscribers.for_each(|_| *admitted.entry((home, number)).or_default() += 1);
            }
        }
        for (index, node) in self.nodes.iter().enumerate() {
            let core = &node.shard.as_ref().expect("all shards live").core;
            let own = admitted
                .iter()
                .filter(|((home, _), _)| usize::from(*home) == index);
            let counts: Vec<u32> = own.map(|(_, count)| *count).collect();
            let limit = core.rules.get(0).subscribers;
            assert!(
                counts
                    .iter()
                    .all(|count| limit.is_none_or(|limit| *count <= limit))
            );
            let known: u64 = counts.into_iter().map(u64::from).sum();
            assert_eq!(core.home.admitted(), known, "admissions of shard {index}");
        }
    }

    /// Where everything has arrived, homes know exactly who is subscribed.
    ///
    /// # Panics
    /// When one does not.
    pub(super) fn check_presence(&self) {
        let mut there: HashMap<(u16, u32), (u32, HashMap<String, u32>)> = HashMap::new();
        for node in &self.nodes {
            let Some(shard) = &node.shard else { return };
            let core = &shard.core;
            for (home, number, subscribers) in core.local.with_presence() {
                let (anonymous, users) = there.entry((home, number)).or_default();
                subscribers.for_each(|key| {
                    let connection = &core.connections[key as usize];
                    match core.users.name(connection.user) {
                        Some(user) => *users.entry(user.to_owned()).or_default() += 1,
                        None => *anonymous += 1,
                    }
                });
            }
        }
        for ((home, number), (anonymous, users)) in there {
            let shard = self.nodes[usize::from(home)].shard.as_ref();
            let core = &shard.expect("all shards live").core;
            let page = core.home.members(number, 0, usize::MAX);
            let page = page.expect("a channel with subscribers");
            let known: HashMap<String, u32> = page
                .members
                .into_iter()
                .map(|(user, connections)| (user.into(), connections))
                .collect();
            assert_eq!((page.counts.anonymous, known), (anonymous, users));
        }
    }
}
