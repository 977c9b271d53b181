package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sort"
	"strings"
	"sync"
	"time"
	"unsafe"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/fabric"
)

// CaptureRequest says which frames to catch.
type CaptureRequest struct {
	// Links are names of links ("a:eth1--b:eth1": both ends), of two nodes
	// ("a--b": all links between them), or of one end ("a:eth1"). Empty, or
	// "all", means every link of the lab.
	Links []string
	// Nodes keeps only the ends that lie in these nodes; empty: no filter.
	Nodes    []string
	Count    int           // frames after which to stop; 0: no limit
	Duration time.Duration // after which to stop; 0: no limit
	SnapLen  int           // bytes kept of each frame; 0: all
}

const (
	captureBuffer = 4 << 20       // bytes a socket may hold while it waits to be read
	maxCaptured   = 1<<16 + 1<<10 // bytes: a 64 KiB segmentation-offload frame and its headers
	captureQueue  = 1024          // frames between the sockets and the file
)

// tap is one end of a link with a packet socket on it.
type tap struct {
	end  fabric.End
	link string
	file *os.File // the socket
}

func (t *tap) name() string { return t.end.Node + ":" + t.end.Ifname }

// captured is one frame on its way to the file.
type captured struct {
	tap      int
	at       time.Time
	length   int // on the wire
	data     []byte
	outgoing bool
}

// Capture writes the frames that r asks for to w as pcapng: one interface
// block for each end, named node:ifname, with the link's name as comment;
// frames carry their direction as seen by the node. ready is called when every
// socket is open, so that what is sent from then on is caught. It ends with
// ctx, the count or the duration, none of which is an error.
func (l *Lab) Capture(ctx context.Context, r CaptureRequest, w io.Writer, ready func(ends int)) error {
	f := l.Fabric()
	if f == nil {
		return ErrNotBuilt
	}
	taps, err := chooseEnds(f.Current(), r)
	if err != nil {
		return err
	}
	if err := openTaps(f, taps); err != nil {
		return err
	}
	if r.Duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.Duration)
		defer cancel()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	frames := readTaps(ctx, taps, r.SnapLen)
	err = writeCapture(taps, frames, w, r, ready)
	cancel()
	for range frames { // until the readers are gone
	}
	return err
}

// chooseEnds resolves the names of r, in a fixed order.
func chooseEnds(st fabric.State, r CaptureRequest) ([]*tap, error) {
	all := map[string]*tap{}
	names := make([]string, 0, len(st.Links))
	for name, link := range st.Links {
		names = append(names, name)
		for _, e := range []fabric.End{link.A, link.B} {
			t := &tap{end: e, link: name}
			all[t.name()] = t
		}
	}
	for _, n := range r.Nodes {
		if _, ok := st.Nodes[n]; !ok {
			return nil, &NoSuchError{What: "node", Name: n, Have: keys(st.Nodes)}
		}
	}
	chosen := map[string]*tap{}
	for _, want := range r.Links {
		if !pickEnds(all, want, chosen) {
			return nil, &NoSuchError{What: "link or interface", Name: want, Have: append(names, keys(all)...)}
		}
	}
	if len(r.Links) == 0 {
		chosen = all
	}
	var taps []*tap
	for _, t := range chosen {
		if len(r.Nodes) == 0 || contains(r.Nodes, t.end.Node) {
			taps = append(taps, t)
		}
	}
	if len(taps) == 0 {
		return nil, errors.New("capture: no link end is left by the filter")
	}
	sort.Slice(taps, func(i, j int) bool {
		return taps[i].link+taps[i].name() < taps[j].link+taps[j].name()
	})
	return taps, nil
}

// pickEnds adds the ends that one word names to chosen.
func pickEnds(all map[string]*tap, want string, chosen map[string]*tap) bool {
	found := false
	a, b, pair := strings.Cut(want, "--")
	for name, t := range all {
		left, right, _ := strings.Cut(t.link, "--")
		la, lb := nodeOf(left), nodeOf(right)
		switch {
		case want == "all", want == name, want == t.link, want == right+"--"+left:
		case pair && (a == la && b == lb || a == lb && b == la):
		default:
			continue
		}
		chosen[name] = t
		found = true
	}
	return found
}

func nodeOf(end string) string {
	node, _, _ := strings.Cut(end, ":")
	return node
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

func keys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}

// openTaps opens a packet socket for each tap, one visit to each namespace. A
// socket stays in the namespace it was made in, whoever reads it.
func openTaps(f *fabric.Fabric, taps []*tap) error {
	byNode := map[string][]*tap{}
	for _, t := range taps {
		byNode[t.end.Node] = append(byNode[t.end.Node], t)
	}
	for node, list := range byNode {
		err := f.Do(node, func() error {
			for _, t := range list {
				file, err := openPacketSocket(t.end.Ifname)
				if err != nil {
					return fmt.Errorf("capture on %s: %w", t.name(), err)
				}
				t.file = file
			}
			return nil
		})
		if err != nil {
			closeTaps(taps)
			return err
		}
	}
	return nil
}

func closeTaps(taps []*tap) {
	for _, t := range taps {
		if t.file != nil {
			t.file.Close()
		}
	}
}

// openPacketSocket makes an AF_PACKET socket (packet(7)) on an interface of
// the current namespace. It is bound before it is given a protocol to listen
// for, so that it never holds a frame of another interface.
func openPacketSocket(ifname string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	ifr, err := unix.NewIfreq(ifname)
	if err == nil {
		err = unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr)
	}
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer)
	}
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: int(ifr.Uint32())})
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "capture "+ifname), nil
}

func htons(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}

// readTaps reads all sockets until ctx ends; the channel is closed when every
// reader is gone and the sockets are closed.
func readTaps(ctx context.Context, taps []*tap, snap int) <-chan captured {
	frames := make(chan captured, captureQueue)
	var wg sync.WaitGroup
	for i, t := range taps {
		wg.Add(1)
		go func() {
			defer wg.Done()
			readTap(ctx, i, t, snap, frames)
		}()
	}
	release := context.AfterFunc(ctx, func() {
		for _, t := range taps {
			_ = t.file.SetReadDeadline(time.Unix(1, 0))
		}
	})
	go func() { // ends with the readers
		wg.Wait()
		release()
		close(frames)
	}()
	return frames
}

// readTap reads one socket until its deadline is set.
func readTap(ctx context.Context, i int, t *tap, snap int, frames chan<- captured) {
	raw, err := t.file.SyscallConn()
	if err != nil {
		return
	}
	buf := make([]byte, maxCaptured)
	oob := make([]byte, unix.CmsgSpace(int(unsafe.Sizeof(unix.Timespec{}))))
	for {
		var (
			n, oobn int
			from    unix.Sockaddr
			rerr    error
		)
		err := raw.Read(func(fd uintptr) bool {
			// MSG_TRUNC gives the length on the wire where the frame is longer.
			n, oobn, _, from, rerr = unix.Recvmsg(int(fd), buf, oob, unix.MSG_TRUNC)
			return rerr != unix.EAGAIN
		})
		if err != nil {
			return // the deadline: the capture is over
		}
		if rerr != nil { // ENETDOWN: the interface was taken down; nothing more may come, but it can come up again
			if errors.Is(rerr, unix.ENETDOWN) || errors.Is(rerr, unix.EINTR) {
				continue
			}
			return
		}
		keep := min(n, len(buf))
		if snap > 0 {
			keep = min(keep, snap)
		}
		c := captured{tap: i, at: stampOf(oob[:oobn]), length: n, data: append([]byte(nil), buf[:keep]...)}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok {
			c.outgoing = ll.Pkttype == unix.PACKET_OUTGOING
		}
		select {
		case frames <- c:
		case <-ctx.Done():
			return
		}
	}
}

// stampOf is the kernel's receive time in a control message, or now.
func stampOf(oob []byte) time.Time {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return time.Now()
	}
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPNS && len(m.Data) >= int(unsafe.Sizeof(unix.Timespec{})) {
			ts := (*unix.Timespec)(unsafe.Pointer(&m.Data[0]))
			return time.Unix(ts.Unix())
		}
	}
	return time.Now()
}

// writeCapture writes the file's head, then frames until the channel is
// closed or the count is reached, then what each socket had to drop. It
// flushes whenever no frame waits, so that a live view lags by nothing.
func writeCapture(taps []*tap, frames <-chan captured, w io.Writer, r CaptureRequest, ready func(int)) error {
	defer closeTaps(taps)
	ng, err := captureHead(taps, w, r.SnapLen)
	if err != nil {
		return err
	}
	if ready != nil {
		ready(len(taps))
	}
	began := time.Now()
	for n := 0; r.Count == 0 || n < r.Count; n++ {
		c, ok := <-frames
		if !ok {
			break
		}
		if err := writeFrame(ng, c); err != nil {
			return err
		}
		if len(frames) == 0 {
			if err := ng.Flush(); err != nil {
				return err
			}
		}
	}
	for i, t := range taps {
		stats := pcapgo.NgInterfaceStatistics{LastUpdate: time.Now(), StartTime: began, EndTime: time.Now(),
			PacketsReceived: pcapgo.NgNoValue64, PacketsDropped: pcapgo.NgNoValue64}
		if raw, err := t.file.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) {
				if st, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
					stats.PacketsReceived, stats.PacketsDropped = uint64(st.Packets), uint64(st.Drops)
				}
			})
		}
		if err := ng.WriteInterfaceStats(i, stats); err != nil {
			return err
		}
	}
	return ng.Flush()
}

func captureHead(taps []*tap, w io.Writer, snap int) (*pcapgo.NgWriter, error) {
	describe := func(t *tap) pcapgo.NgInterface {
		return pcapgo.NgInterface{
			Name: t.name(), Comment: "link " + t.link, Description: net.HardwareAddr(t.end.MAC[:]).String(),
			OS: "linux", LinkType: layers.LinkTypeEthernet, SnapLength: uint32(snap),
		}
	}
	ng, err := pcapgo.NewNgWriterInterface(w, describe(taps[0]),
		pcapgo.NgWriterOptions{SectionInfo: pcapgo.NgSectionInfo{Application: "vpclab", OS: "linux"}})
	if err != nil {
		return nil, err
	}
	for _, t := range taps[1:] {
		if _, err := ng.AddInterface(describe(t)); err != nil {
			return nil, err
		}
	}
	return ng, ng.Flush()
}

func writeFrame(ng *pcapgo.NgWriter, c captured) error {
	flags := &pcapgo.NgEpbFlags{Direction: pcapgo.NgEpbFlagDirectionInbound}
	if c.outgoing {
		flags.Direction = pcapgo.NgEpbFlagDirectionOutbound
	}
	ci := gopacket.CaptureInfo{Timestamp: c.at, CaptureLength: len(c.data), Length: c.length, InterfaceIndex: c.tap}
	return ng.WritePacketWithOptions(ci, c.data, pcapgo.NgPacketOptions{Flags: flags})
}
