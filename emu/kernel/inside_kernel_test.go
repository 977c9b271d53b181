package kernel

import (
	"net"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
)

// Every feature that labs ask for, wanted ones too, works in a lab kernel.
func TestFeatures(t *testing.T) {
	kerneltest.Need(t)
	for _, f := range probeFeatures() {
		if !f.OK {
			t.Errorf("%s: %s", f.Name, f.Detail)
		}
	}
}

func TestLoopbackIsUp(t *testing.T) {
	kerneltest.Need(t)
	lo, err := net.InterfaceByName("lo")
	if err != nil || lo.Flags&net.FlagUp == 0 {
		t.Errorf("lo is %v, %v", lo, err)
	}
}

// A new namespace has IPv6, for programs that listen on [::], but no addresses.
func TestNewNamespaceIsQuiet(t *testing.T) {
	kerneltest.Need(t)
	if Inside() == Host {
		t.Skip("only a booted kernel's defaults are ours")
	}
	result := make(chan string)
	go func() { // the locked thread and its namespace end with the goroutine
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			result <- err.Error()
			return
		}
		// /proc/sys shows the namespace of the thread that opens it.
		v, err := os.ReadFile("/proc/sys/net/ipv6/conf/default/disable_ipv6")
		if err != nil {
			result <- err.Error()
			return
		}
		result <- strings.TrimSpace(string(v))
	}()
	if got := <-result; got != "1" {
		t.Errorf("disable_ipv6 in a new namespace is %s, want 1", got)
	}
	ln, err := net.Listen("tcp", "[::]:0")
	if err != nil {
		t.Errorf("listen on [::]: %v", err)
		return
	}
	ln.Close()
}

// The root folder is the host's and must not be written.
func TestRootIsReadOnly(t *testing.T) {
	kerneltest.Need(t)
	if Inside() == Host {
		t.Skip("only a booted kernel's root is ours")
	}
	var st unix.Statfs_t
	if err := unix.Statfs("/", &st); err != nil || st.Flags&unix.ST_RDONLY == 0 {
		t.Errorf("/ is not read-only: flags %x, %v", st.Flags, err)
	}
	f, err := os.CreateTemp("/tmp", "x")
	if err != nil {
		t.Fatalf("/tmp cannot be written: %v", err)
	}
	f.Close()
}
