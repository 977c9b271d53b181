package fault_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/fault"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/topo"
)

// TestMain lets this test binary be a process that has a connection.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "caller" {
		call(os.Args[2])
	}
	os.Exit(m.Run())
}

// call connects and says so, waits for the end of the connection and says how
// that was, and waits on.
func call(to string) {
	c, err := net.Dial("tcp4", to)
	fmt.Println("connected", err)
	if err == nil {
		_, err = c.Read(make([]byte, 1))
		fmt.Println("ended:", err)
	}
	select {}
}

var here = netip.MustParsePrefix("10.7.0.1/30")

// pair is two nodes, with a process in b that is connected to a. Its words come
// line by line.
func pair(t *testing.T) (f *fabric.Fabric, served net.Conn, words *bufio.Scanner, process *exec.Cmd) {
	t.Helper()
	f, err := fabric.New("power", nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, f.Destroy(context.Background())) })
	_, err = f.Apply(t.Context(), fabric.State{
		Nodes: map[string]fabric.Node{"a": {Name: "a"}, "b": {Name: "b"}},
		Links: map[string]fabric.Link{"ab": {MTU: 1500,
			A: fabric.End{Node: "a", Ifname: "eth0", MAC: topo.MAC{2, 0, 0, 0, 0, 1}, Addr: here},
			B: fabric.End{Node: "b", Ifname: "eth0", MAC: topo.MAC{2, 0, 0, 0, 0, 2}, Addr: netip.MustParsePrefix("10.7.0.2/30")},
		}},
	})
	require.NoError(t, err)
	var l net.Listener
	require.NoError(t, f.Do("a", func() (err error) { l, err = net.Listen("tcp4", here.Addr().String()+":179"); return err }))
	defer l.Close()
	process = exec.Command("/proc/self/exe", "caller", l.Addr().String())
	out, err := process.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, f.Start("b", process))
	t.Cleanup(func() { _ = process.Process.Kill(); _ = process.Wait() })
	require.NoError(t, l.(*net.TCPListener).SetDeadline(time.Now().Add(10*time.Second)))
	served, err = l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { served.Close() })
	words = bufio.NewScanner(out)
	require.True(t, words.Scan())
	require.Equal(t, "connected <nil>", words.Text())
	return f, served, words, process
}

// heard is how the connection ended for the one in a, within a time.
func heard(t *testing.T, c net.Conn, within time.Duration) error {
	t.Helper()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(within)))
	_, err := c.Read(make([]byte, 1))
	return err
}

// TestPowerOffIsSilent leaves the link up, so that any word would be heard.
func TestPowerOffIsSilent(t *testing.T) {
	kerneltest.Need(t)
	f, served, _, process := pair(t)
	require.NoError(t, fault.PowerOff(f, "b"))
	require.Error(t, process.Wait(), "it was killed")
	require.ErrorIs(t, heard(t, served, time.Second), os.ErrDeadlineExceeded, "nothing is heard")
	procs, err := f.Processes("a", "b")
	require.NoError(t, err)
	require.Empty(t, procs)

	// Who speaks to it now learns that nobody knows of the connection.
	_, err = served.Write([]byte("x"))
	require.NoError(t, err)
	require.ErrorIs(t, heard(t, served, 5*time.Second), syscall.ECONNRESET)
}

func TestKillSaysFarewell(t *testing.T) {
	kerneltest.Need(t)
	f, served, _, process := pair(t)
	n, err := fault.Kill(f, "b", func(argv []string) bool { return len(argv) > 1 && argv[1] == "callee" })
	require.NoError(t, err)
	require.Zero(t, n, "none is called so")
	n, err = fault.Kill(f, "b", func(argv []string) bool { return len(argv) > 1 && argv[1] == "caller" })
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Error(t, process.Wait(), "it was killed")
	require.ErrorIs(t, heard(t, served, 5*time.Second), io.EOF)
}

func TestResetIsHeardAtBothEnds(t *testing.T) {
	kerneltest.Need(t)
	f, served, words, _ := pair(t)
	n, err := fault.Reset(f, "b", 80)
	require.NoError(t, err)
	require.Zero(t, n, "no connection has that port")
	n, err = fault.Reset(f, "b", 179)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.ErrorIs(t, heard(t, served, 5*time.Second), syscall.ECONNRESET)
	heardIt := make(chan bool, 1)
	go func() { heardIt <- words.Scan() }()
	select {
	case ok := <-heardIt:
		require.True(t, ok)
		require.Contains(t, words.Text(), "ended:")
		t.Log(words.Text())
	case <-time.After(5 * time.Second):
		t.Fatal("waited 5 s for the process to see the end of its connection")
	}
}
