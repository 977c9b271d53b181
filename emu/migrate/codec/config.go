package codec

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/zeebo/xxh3"

	"github.com/vpclab/vpclab/emu/warm"
)

const (
	// MaxBatch is how many pages a batch may have. A larger one compresses no
	// better, and its literals would not fit a frame of package wire.
	MaxBatch = 768
	// usualBatch is what encoders have room for from the start.
	usualBatch = 256
	// DefaultBlock is CloudNet's: four blocks a page.
	DefaultBlock = 1024
	// cloudHash is how many bits CloudNet's hash has.
	cloudHash = 32
	// maxPages keeps page numbers, and what is computed of them, in 32 bits:
	// 4 TiB.
	maxPages = 1 << 30
	// warmEncoder and warmDecoder are about what they allocate besides caches
	// and shadow, which package warm has ready where page faults are dear.
	warmEncoder = 24 << 20
	warmDecoder = 8 << 20
)

// Compressors are the values that Config.Compress may have, besides "".
var Compressors = []string{"zip", "zstd-1", "zstd-3", "lz4"}

// NewEncoder makes the sending half of a pair.
func NewEncoder(c Config) (Encoder, error) {
	c, err := c.complete()
	if err != nil {
		return nil, err
	}
	done := warm.Heap(warmEncoder)
	defer done()
	if c.Own {
		e, err := newOwnEncoder(c)
		if err != nil {
			return nil, fmt.Errorf("vpclab's own encoder: %w", err)
		}
		return e, nil
	}
	e, err := newStagedEncoder(c)
	if err != nil {
		return nil, fmt.Errorf("encoder: %w", err)
	}
	return e, nil
}

// NewDecoder makes the receiving half; c must be the encoder's.
func NewDecoder(c Config) (Decoder, error) {
	c, err := c.complete()
	if err != nil {
		return nil, err
	}
	done := warm.Heap(warmDecoder)
	defer done()
	if c.Own {
		return newOwnDecoder(c), nil
	}
	d, err := newStagedDecoder(c)
	if err != nil {
		return nil, fmt.Errorf("decoder: %w", err)
	}
	return d, nil
}

// Parse adds to a configuration the encoders that a list names: zero, cbr,
// delta, vpclab, and one of Compressors. An empty list, or "raw" alone, is no
// encoder at all.
func Parse(c Config, names []string) (Config, error) {
	for _, name := range names {
		switch {
		case name == "raw" && len(names) == 1:
		case name == "zero":
			c.Zero = true
		case name == "cbr":
			c.CBR = true
		case name == "delta":
			c.Delta = true
		case name == "vpclab":
			c.Own, c.Zero = true, true
		case slices.Contains(Compressors, name) && c.Compress == "":
			c.Compress = name
		case slices.Contains(Compressors, name):
			return c, fmt.Errorf("encoders %v: %s and %s both compress what is left; expected one of them", names, c.Compress, name)
		default:
			return c, fmt.Errorf("encoders %v: there is no encoder %q; expected zero, cbr, delta, vpclab, %v, or raw alone", names, name, Compressors)
		}
	}
	_, err := c.complete()
	return c, err
}

// complete checks a configuration and fills in what is left to us.
func (c Config) complete() (Config, error) {
	if c.Pages < 1 || c.Pages > maxPages {
		return c, fmt.Errorf("encoder for a memory of %d pages: expected 1 to %d", c.Pages, maxPages)
	}
	if c.Compress != "" && !slices.Contains(Compressors, c.Compress) {
		return c, fmt.Errorf("compress %q: expected one of %v", c.Compress, Compressors)
	}
	if c.Own {
		if c.CBR || c.Delta || c.Compress != "" || c.Unverified || c.HashBits != 0 || c.Key != 0 {
			return c, fmt.Errorf("vpclab's own encoder stands in place of cbr, delta and compressors, and always verifies: expected none of them beside it")
		}
		if c.Pages > mostOwnPages {
			return c, fmt.Errorf("vpclab's own encoder for a memory of %d pages: expected at most %d", c.Pages, mostOwnPages)
		}
		return c, nil
	}
	if c.Unverified && !c.CBR {
		return c, fmt.Errorf("unverified: only cbr verifies what a hash has found")
	}
	if !c.CBR && !c.Delta {
		return c, nil
	}
	if c.Block == 0 {
		// Without content redundancy nothing asks for less than a page.
		c.Block = PageSize
		if c.CBR {
			c.Block = DefaultBlock
		}
	}
	if c.Block < 16 || c.Block > PageSize || c.Block&(c.Block-1) != 0 {
		return c, fmt.Errorf("cbr block of %d bytes: expected a power of two from 16 to %d", c.Block, PageSize)
	}
	if c.Cache == 0 {
		c.Cache = int64(c.Pages) * PageSize / 10
	}
	if least := int64(PageSize); c.Cache < least {
		c.Cache = least
	}
	if n := c.Cache / int64(c.Block); n > 1<<31 {
		return c, fmt.Errorf("cbr cache of %d bytes: expected at most 2^31 blocks of %d bytes, whose index has 32 bits", c.Cache, c.Block)
	}
	if c.HashBits == 0 {
		c.HashBits = cloudHash
	}
	if c.HashBits < 8 || c.HashBits > 64 {
		return c, fmt.Errorf("cbr hash of %d bits: expected 8 to 64", c.HashBits)
	}
	return c, nil
}

// digest is the first state of a pair, so that two ends that were configured
// differently say so at the first batch. The hash is the encoder's own business.
func (c Config) digest() uint64 {
	var b []byte
	b = binary.AppendUvarint(b, uint64(c.Pages))
	b = binary.AppendUvarint(b, uint64(c.Block))
	b = binary.AppendUvarint(b, uint64(c.Cache))
	for _, on := range []bool{c.Zero, c.CBR, c.Delta, c.Own, c.Unverified} {
		if on {
			b = append(b, 1)
		} else {
			b = append(b, 0)
		}
	}
	return xxh3.Hash(append(b, c.Compress...))
}
