package rtnl

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// FDBEvent is one notification about what a bridge knows.
type FDBEvent struct {
	FDBEntry
	Gone bool // forgotten
}

// FDBWatch is a stream of notifications about the forwarding tables of a
// namespace's bridges: a MAC learned, moved to another port, forgotten.
type FDBWatch struct {
	file *os.File
	buf  []byte
}

// WatchFDB subscribes to the bridges of this thread's namespace.
func WatchFDB() (*FDBWatch, error) {
	file, err := subscribe(unix.RTMGRP_NEIGH, "fdb-watch", nil)
	if err != nil {
		return nil, fmt.Errorf("watch forwarding tables: %w", err)
	}
	return &FDBWatch{file: file, buf: make([]byte, 32<<10)}, nil
}

// Next waits for notifications. It returns ErrLost when some were lost, and
// os.ErrClosed after Close.
func (w *FDBWatch) Next() ([]FDBEvent, error) {
	n, err := w.file.Read(w.buf)
	switch {
	case errors.Is(err, unix.ENOBUFS):
		return nil, ErrLost
	case err != nil:
		return nil, fmt.Errorf("watch forwarding tables: %w", err)
	}
	var out []FDBEvent
	err = messages(w.buf[:n], func(_ uint32, typ, _ uint16, payload []byte) {
		if typ != unix.RTM_NEWNEIGH && typ != unix.RTM_DELNEIGH {
			return
		}
		if e, ok := parseFDB(payload); ok {
			out = append(out, FDBEvent{FDBEntry: e, Gone: typ == unix.RTM_DELNEIGH})
		}
	})
	return out, err
}

// Close ends the stream and a Next that waits.
func (w *FDBWatch) Close() error { return w.file.Close() }
