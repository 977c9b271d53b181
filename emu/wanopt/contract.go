package wanopt

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/vpclab/vpclab/emu/migrate/codec"
	"github.com/vpclab/vpclab/emu/migrate/wire"
)

// Variants of the pair, by the names of scenario files. They stand beside the
// algorithms of package migrate and the modes of package vmm.
const (
	All    = "wanopt"       // vpclab's own encoder, and Smart Stop
	Raw    = "wanopt-raw"   // Smart Stop alone
	CRE    = "wanopt-cre"   // CloudNet's encoders, and Smart Stop
	Plain  = "wanopt-plain" // vpclab's own encoder alone
	noStop = Plain
)

// Variants are all of them.
var Variants = []string{All, Raw, CRE, Plain}

// encodersOf are those of a variant, by the names of codec.Parse.
var encodersOf = map[string][]string{
	All:   {"vpclab"},
	Raw:   {"raw"},
	CRE:   {"zero", "cbr", "delta"},
	Plain: {"vpclab"},
}

// ByVariant gives a variant's encoders, and whether it decides when the VM stops.
func ByVariant(name string) (encoders []string, smartStop, ok bool) {
	encoders, ok = encodersOf[name]
	return encoders, ok && name != noStop, ok
}

// Near says what the near end does.
type Near struct {
	// Encoders by the names of codec.Parse; none: vpclab's own.
	Encoders []string
	Block    int   // bytes of a CBR block; default 1024
	Cache    int64 // bytes of the CBR cache; default a tenth of the guest's memory
	// MostMemory is how large a guest may be whose pages are recognised: each end
	// holds a copy of its memory. Default: as large as it is.
	MostMemory int64
	// Open opens the session of a channel to the far end: 0 for QEMU's first
	// connection, and then as they come.
	Open func(ctx context.Context, channel uint8) (wire.Session, error)
	// Begun, where it is not nil, is called when QEMU has connected.
	Begun func()
	// Warn is told what a user should know of a stream; nil: nobody.
	Warn func(what string)
}

// Far says what the far end does.
type Far struct {
	// Accept waits for the session of a channel.
	Accept func(ctx context.Context, channel uint8) (wire.Session, error)
	// Dial connects to the QEMU that waits for the guest.
	Dial func(ctx context.Context) (net.Conn, error)
	// MostMemory is how much memory the near end may ask for. Default: no bound
	// but what a guest can have; what is not used takes none.
	MostMemory int64
	Warn       func(what string)
}

// Stats are what an end counted of one migration.
type Stats struct {
	Took     time.Duration // from QEMU's connection to the proof
	Streams  int           // connections of QEMU's
	Bytes    int64         // of QEMU's stream
	Back     int64         // of what QEMU said against it
	WANOut   int64         // handed to TCP by this end, with headers
	WANIn    int64
	Batches  int64
	Pages    int64 // records of pages
	Zeros    int64 // records of pages of zeros
	Other    int64 // bytes that went through as they are
	SHA256   string
	Equal    bool // both ends have hashed the same bytes
	Passed   bool // nothing was recognised
	Odd      []string
	Encoders []codec.Use
	// CPU of this process, and how much memory its encoder or decoder held.
	CPU        time.Duration
	Footprint  int64
	Reconnects int
	Waited     struct{ QEMU, Link time.Duration } // in turn, by the near end
	Theirs     *Stats                             `json:",omitempty"` // the other end's
	Stop       *StopReport                        `json:",omitempty"`
}

var (
	// ErrDiffers: the two ends did not see the same bytes.
	ErrDiffers = errors.New("the stream that came out is not the one that went in")
	// ErrGone is in an error when the other end of the pair has left.
	ErrGone = errors.New("the other end of the pair is gone")
)
