use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{FromRawFd, OwnedFd},
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use super::*;

const HASH: u32 = 1;
const PER_CPU_HASH: u32 = 5;
const LRU_HASH: u32 = 9;

type Key = [u32; 10];
type Value = [u32; 4];
type Table = HashTable<Key, Value>;

fn key(number: u32) -> Key {
    [number, 1, 2, 3, 4, 5, 6, 7, 8, !number]
}

fn keys(numbers: impl IntoIterator<Item = u32>) -> Vec<Key> {
    numbers.into_iter().map(key).collect()
}

fn entry(number: u32) -> (Key, Value) {
    (key(number), [number, 9, 9, !number])
}

fn entries(numbers: impl IntoIterator<Item = u32>) -> Vec<(Key, Value)> {
    numbers.into_iter().map(entry).collect()
}

/// Making maps needs privilege; without it there is nothing to test on.
fn permitted() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: kernel maps need root");
    }
    root
}

fn map(map_type: u32, key_size: usize, value_size: usize, max_entries: u32) -> MapData {
    const CREATE: libc::c_int = 0;
    let mut attr = [map_type, count(key_size), count(value_size), max_entries, 0];
    let size = size_of_val(&attr);
    // SAFETY: the first five fields of `union bpf_attr` for BPF_MAP_CREATE, without addresses.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, CREATE, attr.as_mut_ptr(), size) };
    let fd = i32::try_from(fd).unwrap();
    assert!(fd >= 0, "making a map: {}", io::Error::last_os_error());
    // SAFETY: a file descriptor just made, which nobody else has.
    MapData::from_fd(unsafe { OwnedFd::from_raw_fd(fd) }).unwrap()
}

fn table(map_type: u32, max_entries: u32) -> Table {
    let table =
        HashTable::new(map(map_type, size_of::<Key>(), size_of::<Value>(), max_entries)).unwrap();
    assert!(table.batched, "this kernel has batches");
    table
}

/// One table that works in batches, and one that works as on a kernel without them.
fn both_ways(map_type: u32, max_entries: u32) -> [Table; 2] {
    let batched = table(map_type, max_entries);
    let single = Table { batched: false, ..table(map_type, max_entries) };
    [batched, single]
}

/// All numbers in the table, in order. Every entry is whole, and none is seen twice.
fn numbers(table: &Table) -> Vec<u32> {
    collect(|see| table.for_each(see))
}

fn collect(walk: impl FnOnce(&mut dyn FnMut(&Key, &Value)) -> io::Result<u64>) -> Vec<u32> {
    let mut met = BTreeSet::new();
    let seen = walk(&mut |key, value| {
        assert_eq!((*key, *value), entry(key[0]), "a key with its value");
        assert!(met.insert(key[0]), "{} was seen twice", key[0]);
    });
    assert_eq!(seen.unwrap(), met.len() as u64, "what is returned is what was seen");
    met.into_iter().collect()
}

#[test]
fn every_entry_is_seen_once() {
    if !permitted() {
        return;
    }
    for map_type in [HASH, LRU_HASH] {
        for table in both_ways(map_type, 200_000) {
            assert_eq!(table.insert(&entries(0..100_000)).unwrap(), 100_000);
            assert!(numbers(&table).into_iter().eq(0..100_000), "{table:?}");
        }
    }
}

#[test]
fn an_empty_table_has_no_entries() {
    if !permitted() {
        return;
    }
    for table in both_ways(LRU_HASH, 1000) {
        assert!(numbers(&table).is_empty());
        assert_eq!(table.get(&key(7)).unwrap(), None);
        assert_eq!(table.remove(&keys(0..10)).unwrap(), 0);
        assert_eq!(table.remove(&[]).unwrap(), 0);
        assert_eq!(table.insert(&[]).unwrap(), 0);
    }
}

#[test]
fn a_table_of_one_entry_is_read() {
    if !permitted() {
        return;
    }
    for table in both_ways(HASH, 1) {
        table.insert(&entries([5])).unwrap();
        assert_eq!(numbers(&table), [5]);
    }
}

#[test]
fn an_inserted_value_is_found_and_replaced() {
    if !permitted() {
        return;
    }
    for table in both_ways(HASH, 10) {
        table.insert(&[(key(1), [1; 4]), (key(2), [2; 4])]).unwrap();
        table.insert(&[(key(1), [3; 4])]).unwrap();
        assert_eq!(table.get(&key(1)).unwrap(), Some([3; 4]));
        assert_eq!(table.get(&key(2)).unwrap(), Some([2; 4]));
    }
}

#[test]
fn removal_passes_over_keys_that_are_gone() {
    if !permitted() {
        return;
    }
    for table in both_ways(LRU_HASH, 60_000) {
        table.insert(&entries(0..20_000)).unwrap();
        // Absent ones at the start, at the end, between others and several in a row.
        let odd = (0..20_000).filter(|number| number % 2 == 1);
        let wanted = (30_000..30_005).chain(odd).chain([1, 3, 40_000]);
        assert_eq!(table.remove(&keys(wanted)).unwrap(), 10_000);
        assert!(numbers(&table).into_iter().eq((0..20_000).step_by(2)));
    }
}

#[test]
fn a_full_lru_table_makes_room() {
    if !permitted() {
        return;
    }
    for table in both_ways(LRU_HASH, 5000) {
        assert_eq!(table.insert(&entries(0..20_000)).unwrap(), 20_000);
        let left = numbers(&table);
        assert!((1000..=5000).contains(&left.len()), "{} of 5000", left.len());
        assert_eq!(left.last(), Some(&19_999), "the newest is there");
    }
}

#[test]
fn a_full_table_that_does_not_evict_says_so() {
    if !permitted() {
        return;
    }
    for table in both_ways(HASH, 5000) {
        let error = table.insert(&entries(0..6000)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::E2BIG));
        assert!(numbers(&table).into_iter().eq(0..5000), "those before it are in");
    }
}

#[test]
fn a_bucket_larger_than_the_batch_is_read() {
    if !permitted() {
        return;
    }
    let table = table(HASH, 10_000);
    table.insert(&entries(0..10_000)).unwrap();
    for batch in [1, 2, 3, 7] {
        assert!(collect(|see| table.for_each_batched(batch, see)).into_iter().eq(0..10_000));
    }
}

#[test]
fn what_stays_is_seen_once_though_the_walk_removes() {
    if !permitted() {
        return;
    }
    for table in both_ways(HASH, 20_000) {
        table.insert(&entries(0..20_000)).unwrap();
        let mut met = BTreeMap::<u32, u32>::new();
        let walk = table.for_each(|key, _| {
            *met.entry(key[0]).or_default() += 1;
            if met.len() == 5000 {
                let removed = table.remove(&keys((0..20_000).filter(|number| number % 100 != 0)));
                assert_eq!(removed.unwrap(), 19_800);
            }
        });
        walk.unwrap();
        assert!(met.values().all(|times| *times == 1), "none twice");
        assert!((0..20_000).step_by(100).all(|number| met.contains_key(&number)), "none missed");
    }
}

#[test]
fn what_stays_is_seen_once_though_others_come_and_go() {
    if !permitted() {
        return;
    }
    let table = table(HASH, 30_000);
    table.insert(&entries(0..20_000)).unwrap();
    let walked = AtomicBool::new(false);
    thread::scope(|scope| {
        let churn = scope.spawn(|| {
            let mut rounds = 0;
            while rounds == 0 || !walked.load(Ordering::Relaxed) {
                table.insert(&entries(20_000..25_000)).unwrap();
                table.remove(&keys(20_000..25_000)).unwrap();
                rounds += 1;
            }
        });
        let walks: Vec<_> = (0..10).map(|_| numbers(&table)).collect();
        walked.store(true, Ordering::Relaxed);
        churn.join().unwrap();
        for met in walks {
            assert!(met.into_iter().filter(|number| *number < 20_000).eq(0..20_000));
        }
    });
}

#[test]
fn a_pinned_table_is_opened() {
    struct Pin(PathBuf);
    impl Drop for Pin {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    if !permitted() {
        return;
    }
    let pin = Pin(format!("/sys/fs/bpf/weir-batch-{}", std::process::id()).into());
    let missing = Table::from_pin(&pin.0).unwrap_err();
    assert!(missing.to_string().contains(pin.0.to_str().unwrap()), "{missing}");

    let made = table(LRU_HASH, 1000);
    made.map.pin(&pin.0).expect("a bpffs at /sys/fs/bpf");
    made.insert(&entries(0..10)).unwrap();
    assert!(numbers(&Table::from_pin(&pin.0).unwrap()).into_iter().eq(0..10));
}

#[test]
fn a_map_of_another_shape_is_refused() {
    if !permitted() {
        return;
    }
    let refusal = |map_type, key_size, value_size| {
        Table::new(map(map_type, key_size, value_size, 10)).unwrap_err().to_string()
    };
    assert!(refusal(HASH, 36, 16).contains("36 and 16 bytes, not 40 and 16"));
    assert!(refusal(LRU_HASH, 40, 32).contains("40 and 32 bytes, not 40 and 16"));
    // The kernel would write more than one value a key.
    assert!(refusal(PER_CPU_HASH, 40, 16).contains("PerCpuHash"));
}

/// Says how long a walk takes: `cargo test --release -p lb-userspace --lib batch -- --nocapture`.
#[test]
fn a_large_table_is_read_and_emptied() {
    const FLOWS: u32 = 262_144;
    if !permitted() {
        return;
    }
    for table in both_ways(HASH, FLOWS) {
        let all = entries(0..FLOWS);
        let timed = |what: &str, act: &mut dyn FnMut() -> io::Result<u64>| {
            let start = Instant::now();
            assert_eq!(act().unwrap(), u64::from(FLOWS), "{what}");
            println!("batched {}: {what} {:?}", table.batched, start.elapsed());
        };
        let mut sum = 0;
        timed("insert", &mut || table.insert(&all));
        timed("for_each", &mut || table.for_each(|key, _| sum += u64::from(key[0])));
        assert_eq!(sum, u64::from(FLOWS) * u64::from(FLOWS - 1) / 2);
        timed("remove", &mut || table.remove(&keys(0..FLOWS)));
        assert!(numbers(&table).is_empty());
    }
}

#[test]
fn what_is_no_longer_what_it_was_stays() {
    if !permitted() {
        return;
    }
    for table in both_ways(LRU_HASH, 1000) {
        table.insert(&entries(0..4)).unwrap();
        table.insert(&[(key(1), [7; 4])]).unwrap();
        // 9 is not there.
        assert_eq!(table.remove_unchanged(&entries([0, 1, 3, 9])).unwrap(), 2);
        assert_eq!(table.get(&key(0)).unwrap(), None);
        assert_eq!(table.get(&key(1)).unwrap(), Some([7; 4]));
        assert_eq!(table.get(&key(2)).unwrap(), Some(entry(2).1));
        assert_eq!(table.get(&key(3)).unwrap(), None);
    }
}

#[test]
fn what_is_replaced_in_the_moment_of_its_removal_is_there_afterwards() {
    if !permitted() {
        return;
    }
    let table = table(LRU_HASH, 1000);
    for _ in 0..20_000 {
        table.insert(&entries([1])).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| table.insert(&[(key(1), [7; 4])]).unwrap());
            table.remove_unchanged(&entries([1])).unwrap();
        });
        assert_eq!(table.get(&key(1)).unwrap(), Some([7; 4]));
    }
}
