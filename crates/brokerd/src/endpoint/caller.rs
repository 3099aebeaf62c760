//! Which process a connection of this machine is of, as the kernel tells it.
//!
//! `/proc/net/tcp` names the user and the inode of the socket at the other end, and `/proc/PID/fd` who holds it. The process
//! must be the root of the run or descend from it now: one that cut itself loose (a daemon of its own) is no longer of the
//! run. What cannot be read is not believed. See proc(5), proc_pid_task_tid_children(5).

use std::collections::HashSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};

use broker_core::principal::ProcessId;

use crate::peer::reopen;

/// The two ends of a connection, seen from here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    /// Our end.
    pub(crate) local: SocketAddr,
    /// The other end.
    pub(crate) peer: SocketAddr,
}

/// Tells whether the other end of a connection is held by the process `root` or one that descends from it, and belongs to
/// the user `uid`. Blocks for some files of the kernel.
pub(crate) fn is_of_run(caller: Caller, root: &ProcessId, uid: u32) -> bool {
    let Some((owner, inode)) = socket_of(caller) else { return false };
    // Still that process, and no other one that got its number.
    owner == uid
        && reopen(root).is_some()
        && family(root.pid).into_iter().any(|pid| holds(pid, inode))
        && reopen(root).is_some()
}

/// Returns the owner and the inode of the socket whose own address is the peer's.
fn socket_of(caller: Caller) -> Option<(u32, u64)> {
    // Of the namespace of the network that this process is in, as the connection is. A program whose sockets are of IP
    // version 6 (Java's) has the same connection in the other table.
    socket_in("/proc/self/net/tcp", written(caller.peer)?, written(caller.local)?)
        .or_else(|| socket_in("/proc/self/net/tcp6", mapped(caller.peer)?, mapped(caller.local)?))
}

fn socket_in(table: &str, own: String, other: String) -> Option<(u32, u64)> {
    let table = fs::read_to_string(table).ok()?;
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        (fields.nth(1)? == own && fields.next()? == other).then_some(())?;
        // Behind the two addresses: state, queues, timer, retransmissions, user, timeout, inode.
        let owner = fields.nth(4)?.parse().ok()?;
        let inode = fields.nth(1)?.parse().ok()?;
        Some((owner, inode)).filter(|(_, inode)| *inode != 0)
    })
}

/// Writes an address as the kernel's table does: in hex, in the machine's order of bytes.
fn written(address: SocketAddr) -> Option<String> {
    let SocketAddr::V4(address) = address else { return None };
    let ip: &Ipv4Addr = address.ip();
    Some(format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), address.port()))
}

/// Writes an address as the table of IP version 6 does: in four words, each in the machine's order of bytes.
fn mapped(address: SocketAddr) -> Option<String> {
    let SocketAddr::V4(address) = address else { return None };
    let words = address.ip().to_ipv6_mapped().octets();
    let words = words.chunks_exact(4).map(|word| {
        let word = <[u8; 4]>::try_from(word).unwrap_or_default();
        format!("{:08X}", u32::from_ne_bytes(word))
    });
    Some(format!("{}:{:04X}", words.collect::<String>(), address.port()))
}

/// Most processes of a run that are looked at.
const MAX_FAMILY: usize = 4096;

/// Returns a process and all that descend from it.
fn family(root: i32) -> Vec<i32> {
    let mut seen = HashSet::from([root]);
    let mut all = vec![root];
    let mut next = 0;
    while let Some(pid) = all.get(next).copied().filter(|_| all.len() < MAX_FAMILY) {
        next += 1;
        let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for thread in threads.flatten() {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            let children = children.split_ascii_whitespace().filter_map(|pid| pid.parse().ok());
            all.extend(children.filter(|pid| seen.insert(*pid)));
        }
    }
    all
}

/// Tells whether a process holds a socket.
fn holds(pid: i32, inode: u64) -> bool {
    let wanted = format!("socket:[{inode}]");
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    descriptors.flatten().any(|entry| fs::read_link(entry.path()).is_ok_and(|to| to.as_os_str() == wanted.as_str()))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::net::{TcpListener, TcpStream};
    use std::process::{Child, Command, Stdio};

    use rustix::process::{Pid, Signal};

    use super::*;

    fn process(pid: i32) -> ProcessId {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let start_time = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap();
        ProcessId { pid, start_time, boot_id: crate::peer::boot_id().to_owned() }
    }

    fn own_uid() -> u32 {
        rustix::process::getuid().as_raw()
    }

    #[test]
    fn a_connection_is_of_the_process_that_holds_it_and_of_that_ones_ancestors() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let local = listener.local_addr().unwrap();
        let _ours = TcpStream::connect(local).unwrap();
        let (_stream, peer) = listener.accept().unwrap();
        let caller = Caller { local, peer };
        let own = process(std::process::id().cast_signed());
        assert!(is_of_run(caller, &own, own_uid()));
        let later = ProcessId { start_time: own.start_time + 1, ..own.clone() };
        assert!(!is_of_run(caller, &later, own_uid()), "another process of that number");
        assert!(!is_of_run(caller, &own, own_uid() + 1), "another user's");
        let mut other = Command::new("sleep").arg("1000").spawn().unwrap();
        assert!(!is_of_run(caller, &process(other.id().cast_signed()), own_uid()), "a child is no ancestor");
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn a_socket_of_the_other_version_of_ip_is_found_too() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let local = listener.local_addr().unwrap();
        let _ours = TcpStream::connect((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), local.port())).unwrap();
        let (_stream, peer) = listener.accept().unwrap();
        assert!(is_of_run(Caller { local, peer }, &process(std::process::id().cast_signed()), own_uid()));
    }

    /// Runs a script that connects and says which process did.
    fn connected(listener: &TcpListener, script: &str) -> (Child, Kill, TcpStream, Caller) {
        let local = listener.local_addr().unwrap();
        let script = script.replace("CONNECT", &format!("exec 9<>/dev/tcp/127.0.0.1/{}", local.port()));
        let mut run = Command::new("bash").args(["-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(run.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let (stream, peer) = listener.accept().unwrap();
        (run, Kill(line.trim().parse().unwrap()), stream, Caller { local, peer })
    }

    /// Kills a process that is nobody's child here.
    struct Kill(i32);

    impl Drop for Kill {
        fn drop(&mut self) {
            let _ = rustix::process::kill_process(Pid::from_raw(self.0).unwrap(), Signal::KILL);
        }
    }

    fn end(mut run: Child) {
        run.kill().unwrap();
        run.wait().unwrap();
    }

    #[test]
    fn a_grandchild_is_of_the_run_for_as_long_as_it_descends_from_it() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (run, _grandchild, _stream, caller) =
            connected(&listener, "(CONNECT; echo $BASHPID; exec sleep 1000 >/dev/null) & wait");
        let root = process(run.id().cast_signed());
        assert!(is_of_run(caller, &root, own_uid()));
        end(run);
        assert!(!is_of_run(caller, &root, own_uid()), "the root is gone, and it is nobody's child there");
    }

    #[test]
    fn what_cuts_itself_loose_is_no_longer_of_the_run() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let script = "(setsid bash -c 'CONNECT; echo $$; exec sleep 1000 >/dev/null' &); exec sleep 1000 >/dev/null";
        let (run, _loose, _stream, caller) = connected(&listener, script);
        let is_ours = is_of_run(caller, &process(run.id().cast_signed()), own_uid());
        end(run);
        assert!(!is_ours);
    }
}
