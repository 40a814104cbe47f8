//! A network that does to packets what networks do.

use std::collections::BTreeMap;

/// Draws numbers: Marsaglia's xorshift.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    pub(super) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// Of a hundred packets, how many are lost, come twice, and come with a bit changed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Weather {
    pub(super) lost: u64,
    pub(super) twice: u64,
    pub(super) damaged: u64,
    /// The longest way, in nanoseconds; the shortest one is none.
    pub(super) longest_ns: u64,
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whither {
    Clients,
    Server,
}

/// Packets on the way, by when they arrive.
pub(super) struct Network {
    pub(super) weather: Weather,
    packets: BTreeMap<(u64, u64), (Whither, Vec<u8>)>,
    sent: u64,
}

impl Network {
    pub(super) fn new(weather: Weather) -> Self {
        Self {
            weather,
            packets: BTreeMap::new(),
            sent: 0,
        }
    }

    pub(super) fn send(
        &mut self,
        whither: Whither,
        packet: &[u8],
        now_ns: u64,
        random: &mut Random,
    ) {
        let copies = 1 + u64::from(random.percent(self.weather.twice));
        for _ in 0..copies {
            if random.percent(self.weather.lost) {
                continue;
            }
            let mut packet = packet.to_vec();
            if random.percent(self.weather.damaged) {
                let at = random.below(packet.len() as u64) as usize;
                packet[at] ^= 1 << random.below(8);
            }
            let arrives_ns = now_ns + random.below(self.weather.longest_ns.max(1));
            self.sent += 1;
            self.packets
                .insert((arrives_ns, self.sent), (whither, packet));
        }
    }

    /// The next packet that has arrived.
    pub(super) fn arrived(&mut self, now_ns: u64) -> Option<(Whither, Vec<u8>)> {
        let first = self.packets.first_entry()?;
        (first.key().0 <= now_ns).then(|| first.remove())
    }

    /// When the next packet arrives.
    pub(super) fn next_ns(&self) -> Option<u64> {
        self.packets.first_key_value().map(|((at, _), _)| *at)
    }
}
