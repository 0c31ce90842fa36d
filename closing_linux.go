package main

import (
	"net"
	"syscall"
)

// firstPackets is a filter of a listener's packets (socket(7), SO_ATTACH_FILTER), each of which begins with
// its TCP header: the first one of a connection, which has SYN among its flags, is passed over.
var firstPackets = []syscall.SockFilter{
	{Code: syscall.BPF_LD | syscall.BPF_B | syscall.BPF_ABS, K: 13}, // the flags
	{Code: syscall.BPF_JMP | syscall.BPF_JSET | syscall.BPF_K, K: 2, Jf: 1},
	{Code: syscall.BPF_RET | syscall.BPF_K, K: 0},
	{Code: syscall.BPF_RET | syscall.BPF_K, K: 1<<32 - 1},
}

// ignoreNewConnections makes a listener deaf to who begins to connect; he knocks again after a second, and is
// refused if it is closed by then. Closing it resets connections that were made but not accepted yet, through
// which a request may have been sent already, that a proxy may not send to another process. After a while of
// this there are none. Where the system does not allow it, few are lost.
func ignoreNewConnections(l net.Listener) {
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return
	}
	if raw, err := tcp.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) {
			//lint:ignore SA1019 the package to use instead would be one more to depend on
			syscall.AttachLsf(int(fd), firstPackets)
		})
	}
}
