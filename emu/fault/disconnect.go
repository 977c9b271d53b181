package fault

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// disconnect connects a socket to no address (AF_UNSPEC), which package unix has
// no words for.
func disconnect(fd int) error {
	to := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&to)), unsafe.Sizeof(to))
	if errno != 0 {
		return errno
	}
	return nil
}
