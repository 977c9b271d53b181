package fabric_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/topo"
)

// TestDestroyEndsConnections closes connections with much to send over a slow
// line: the kernel would try to deliver it for minutes, and keep the sender's
// namespace for that.
func TestDestroyEndsConnections(t *testing.T) {
	kerneltest.Need(t)
	f, err := fabric.New("orphans", nil)
	require.NoError(t, err)
	apply(t, f, backbone(lineOf(2)))
	c := startCrowd(t, f, 4)
	c.rates(nil, time.Second) // the buffers fill
	c.stop()
	stat := func() string {
		data, err := os.ReadFile("/proc/net/sockstat")
		require.NoError(t, err)
		return string(data)
	}
	require.NotContains(t, stat(), " orphan 0 ", "nothing is left to send")
	begin := time.Now()
	require.NoError(t, f.Destroy(context.Background()))
	t.Logf("destroyed in %v", time.Since(begin))
	require.Contains(t, stat(), " orphan 0 ")
}

// TestDestroyIsComplete has a namespace of its own joined to every node of a
// lab. When Destroy returns none of these links may be left: the kernel takes
// links down with the namespaces at their ends, in batches, and an end that is
// waited for must not overtake others. Most of the time is spent where a
// mistake shows, so it is tried often.
func TestDestroyIsComplete(t *testing.T) {
	kerneltest.Need(t)
	const nodes = 60
	// A socket of the library in a new namespace: both live as long as it.
	var observer *netlink.Handle
	var ns netns.NsHandle
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good
		var err error
		if ns, err = netns.New(); err == nil {
			observer, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		}
		done <- err
		<-done
	}()
	require.NoError(t, <-done)
	defer func() { observer.Close(); ns.Close(); close(done) }()
	left := func() (names []string) {
		links, err := observer.LinkList()
		require.NoError(t, err)
		for _, l := range links {
			if l.Type() == "veth" {
				names = append(names, l.Attrs().Name)
			}
		}
		return names
	}
	for range 8 {
		f, err := fabric.New("complete", nil)
		require.NoError(t, err)
		apply(t, f, star(nodes, topo.Impairment{}))
		for i := range nodes {
			name := fmt.Sprintf("o%d", i+1)
			require.NoError(t, f.Do(fmt.Sprintf("h%d", i+1), func() error {
				return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "observed"}, PeerName: name, PeerNamespace: netlink.NsFd(int(ns))})
			}))
		}
		require.Len(t, left(), nodes)
		require.NoError(t, f.Destroy(context.Background()))
		require.Empty(t, left())
	}
}
