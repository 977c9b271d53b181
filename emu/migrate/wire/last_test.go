package wire_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/vpclab/vpclab/emu/migrate/wire"
)

// TestLastMessageIsConfirmed: an end that takes the last message and leaves at
// once confirms it, so that the other end's Flush succeeds.
func TestLastMessageIsConfirmed(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for range 50 {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		cfg := wire.Config{ID: [16]byte{7}, Patience: time.Second}
		ln := wire.Listen(l, cfg)
		cfg.Dial = func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp4", l.Addr().String())
		}
		left := make(chan error, 1)
		go func() {
			s, err := ln.Accept(ctx, 0)
			if err == nil {
				if _, err = s.Receive(ctx); err == nil {
					err = s.Close()
				}
			}
			left <- err
		}()
		s, err := wire.Open(ctx, cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Send(ctx, 1, []byte("the last")); err != nil {
			t.Fatal(err)
		}
		if err := <-left; err != nil {
			t.Fatal(err)
		}
		if err := s.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		_ = s.Close()
		_ = ln.Close()
	}
}
