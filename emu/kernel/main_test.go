package kernel

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/event"
)

// The test program is launcher, warden and process 1 by turns, as vpclab is.
func TestMain(m *testing.M) {
	if IsInit() {
		Init(serveTest)
	}
	if what := os.Getenv(boxedEnv); what != "" {
		os.Exit(boxedMain(what))
	}
	if os.Getenv("VPCLAB_TEST_LAUNCHER") != "" {
		os.Exit(launcherMain())
	}
	os.Exit(m.Run())
}

// serveTest answers a connection by its first word.
func serveTest(ctx context.Context, ln net.Listener, args []string) error {
	if len(args) > 0 && args[0] == "fail" {
		return fmt.Errorf("asked to fail: %v", args[1:])
	}
	go func() {
		<-ctx.Done()
		ln.Close()
	}()
	for {
		conn, err := ln.Accept()
		if err != nil {
			return nil
		}
		go answer(conn, args)
	}
}

func answer(conn net.Conn, args []string) {
	defer conn.Close()
	word := make([]byte, 8)
	if _, err := io.ReadFull(conn, word); err != nil {
		return
	}
	switch strings.TrimSpace(string(word)) {
	case "echo":
		_, _ = io.Copy(conn, conn)
	case "args":
		fmt.Fprint(conn, args)
	case "source": // so many bytes as the next 8 say
		var n uint64
		if binary.Read(conn, binary.BigEndian, &n) == nil {
			_, _ = io.CopyN(conn, zeros{}, int64(n))
		}
	case "sink": // swallow so many, then say so
		var n uint64
		if binary.Read(conn, binary.BigEndian, &n) == nil {
			_, _ = io.CopyN(io.Discard, conn, int64(n))
			_, _ = conn.Write([]byte{1})
		}
	case "clock":
		_ = binary.Write(conn, binary.BigEndian, event.Now())
	case "panic":
		_ = os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0)
	case "write": // under another name, then renamed: the rest of the line is the path
		path, _ := bufio.NewReader(conn).ReadString('\n')
		path = strings.TrimSpace(path)
		err := os.WriteFile(path+".new", []byte("from inside\n"), 0o644)
		if err == nil {
			err = os.Rename(path+".new", path)
		}
		fmt.Fprint(conn, err)
	case "children": // orphans that nobody waits for
		_ = unix.Exec("/bin/true", nil, nil)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// needUML skips where User Mode Linux is not installed.
func needUML(t testing.TB) {
	t.Helper()
	needKernel(t, UML)
}

// needKernel skips where the kernel cannot be booted.
func needKernel(t testing.TB, s Substrate) {
	t.Helper()
	if testing.Short() {
		t.Skip("boots a kernel: left out by -short")
	}
	if Inside() != "" && Inside() != Host {
		t.Skip("boots a kernel: not inside of one")
	}
	if _, err := Choose(t.Context(), s); err != nil {
		t.Skip(err)
	}
	if s == QEMU {
		if err := static("/proc/self/exe"); err != nil {
			t.Skip(err)
		}
	}
}

// smallMemory is enough for a kernel and a test, in bytes.
func smallMemory(s Substrate) int64 {
	if s == QEMU {
		return 384 << 20
	}
	return 256 << 20
}

// boot starts a small kernel, User Mode Linux if nothing else is said, and stops
// it after the test.
func boot(t testing.TB, cfg Config) *Machine {
	t.Helper()
	if cfg.Substrate == "" {
		cfg.Substrate = UML
	}
	needKernel(t, cfg.Substrate)
	if cfg.Memory == 0 {
		cfg.Memory = smallMemory(cfg.Substrate)
	}
	m, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := m.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return m
}

// ask dials and says the word.
func ask(t testing.TB, m *Machine, word string) net.Conn {
	t.Helper()
	conn, err := m.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := fmt.Fprintf(conn, "%-8s", word); err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestBootEchoAndStop(t *testing.T) {
	dir := t.TempDir()
	m := boot(t, Config{Dir: dir, InitArgs: []string{"one", "two words"}})
	t.Logf("booted %s in %v; without: %v", m.Release, m.BootTime, m.Without)
	conn := ask(t, m, "echo")
	if _, err := io.WriteString(conn, "hello"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "hello" {
		t.Fatalf("echo gave %q, %v", got, err)
	}
	args, err := io.ReadAll(ask(t, m, "args"))
	if err != nil || string(args) != "[one two words]" {
		t.Fatalf("args inside: %q, %v", args, err)
	}
	if err := m.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if m.Err() != nil {
		t.Fatalf("after Stop, Err is %v", m.Err())
	}
	if _, err := os.Stat(filepath.Join(dir, scratchName)); !os.IsNotExist(err) {
		t.Errorf("the scratch folder is still there (%v)", err)
	}
	if _, err := m.Dial(t.Context()); err == nil {
		t.Error("Dial works after Stop")
	}
}
