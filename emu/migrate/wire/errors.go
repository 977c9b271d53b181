package wire

import (
	"errors"
	"fmt"
)

var (
	// ErrClosed: this end has closed the session.
	ErrClosed = errors.New("session closed")
	// ErrStranger: the other end serves another migration, or no such channel.
	ErrStranger = errors.New("the other end does not know this migration or channel")
	// ErrForgotten: one end has been started anew and knows nothing of what the
	// session had delivered; it cannot go on.
	ErrForgotten = errors.New("an end of the session was started anew and has forgotten it")
	// ErrTooLarge: a message is larger than both ends take.
	ErrTooLarge = errors.New("message too large")
	// ErrSilent: the connection was given up because nothing came for too long.
	ErrSilent = errors.New("connection silent for too long")
)

var (
	// errMangled: bytes changed on their way. The connection is given up; what
	// it carried is sent again on the next.
	errMangled = errors.New("bytes mangled on the way")
	// errReplaced: the other end has opened a newer connection.
	errReplaced = errors.New("replaced by a newer connection")
	errEnded    = errors.New("session ended")
)

// VersionError says that the ends speak different versions of the protocol.
type VersionError struct{ Ours, Theirs uint16 }

func (e *VersionError) Error() string {
	return fmt.Sprintf("migration protocol: this end speaks version %d and the other version %d", e.Ours, e.Theirs)
}

// EndedError says why the other end has ended the session.
type EndedError struct{ Why string }

func (e *EndedError) Error() string { return "the other end has ended the session: " + e.Why }

// ViolationError is something that no accident explains: its checksum is right,
// and the protocol does not allow it. The session is over.
type ViolationError struct{ What string }

func (e *ViolationError) Error() string { return "migration protocol violated: " + e.What }

func violation(format string, args ...any) error {
	return &ViolationError{fmt.Sprintf(format, args...)}
}
