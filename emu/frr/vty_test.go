package frr

import (
	"bufio"
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fakeVTY answers as a daemon's vty does: what answer gives, with its result,
// and hangs up after that on the word "die".
func fakeVTY(t *testing.T, answer func(command string) (text string, result byte)) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "v")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				in := bufio.NewReader(conn)
				for {
					command, err := in.ReadString(0)
					if err != nil || command == "die\x00" {
						return
					}
					if command == "hang\x00" {
						continue
					}
					text, result := answer(strings.TrimSuffix(command, "\x00"))
					if _, err := conn.Write(append([]byte(text), 0, 0, 0, result)); err != nil {
						return
					}
				}
			}()
		}
	}()
	return socket
}

func TestVTY(t *testing.T) {
	long := strings.Repeat("0123456789", 100_000)
	socket := fakeVTY(t, func(c string) (string, byte) {
		switch c {
		case "long":
			return long, 0
		case "bad":
			return "% Unknown command: bad\n", 2
		case "sly": // a fault with the result of a success
			return "% Failed to edit configuration.\n\nYANG error(s):\n x\n", 0
		}
		return "", 0
	})
	v, err := dialVTY(t.Context(), "zebra", socket)
	if err != nil {
		t.Fatal(err)
	}
	texts, err := v.run(t.Context(), "a", "long", "b")
	if err != nil || len(texts) != 3 || texts[1] != long {
		t.Errorf("three commands gave %d texts, %v", len(texts), err)
	}
	if err := v.configure(t.Context(), []string{"good", "bad", "good"}); err == nil || err.Error() != "zebra: bad: refused (2): % Unknown command: bad" {
		t.Errorf("a command that is refused gave %v", err)
	}
	if err := v.configure(t.Context(), []string{"sly"}); err == nil || !strings.Contains(err.Error(), "zebra: sly: % Failed") {
		t.Errorf("a fault that is told in words gave %v", err)
	}
	if err := v.configure(t.Context(), []string{"good"}); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	if _, err := v.run(t.Context(), "die"); err == nil || !strings.Contains(err.Error(), "zebra: die: the session ended") {
		t.Errorf("a daemon that hangs up gave %v", err)
	}

	v, err = dialVTY(t.Context(), "zebra", socket)
	if err != nil {
		t.Fatal(err)
	}
	late := errors.New("waited 1ms for an answer")
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Millisecond, late)
	defer cancel()
	if _, err := v.run(ctx, "hang"); !errors.Is(err, late) || !strings.Contains(err.Error(), "zebra: hang") {
		t.Errorf("a daemon that does not answer gave %v", err)
	}
}

func TestACommandThatComesTooEarlyIsGivenAgain(t *testing.T) {
	tries := 0
	socket := fakeVTY(t, func(command string) (string, byte) {
		if strings.HasPrefix(command, "ip route") {
			if tries++; tries < 3 {
				return "% Configuration failed.\n\nError description: % MPLS not turned on in kernel ignoring static route\n", 13
			}
		}
		return "", 0
	})
	v, err := dialVTY(t.Context(), staticd, socket)
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{name: staticd, conf: v, done: make(chan struct{})}
	if err := d.tell(t.Context(), []block{{lines: []line{{text: "ip route 10.0.0.1/32 10.0.0.2 label 16"}}}}); err != nil || tries != 3 {
		t.Errorf("after %d tries: %v", tries, err)
	}
}
