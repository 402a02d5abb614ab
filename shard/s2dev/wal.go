package s2dev

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Pebble's write-ahead log is blocks of chunks: CRC (4), length (2), encoding (1), number of the log
// (4), and how much of the log an fsync covered when the chunk was made (8). Pebble takes what it
// cannot read for the log's end, unless one of the following blocks shows that it is not. A log of
// one block, or damage in the last one, goes unseen that way, and what stood behind it with it.
const (
	walBlock          = 32 << 10
	walHeader         = 4 + 2 + 1 + 4 + 8
	walMinEncoding    = 5 // the first encoding with a log's number
	walSyncedEncoding = 9 // the first with what an fsync covered
	walMaxEncoding    = 12
	walMaxSize        = 1 << 30 // a log that is longer is not looked at
	walCRCStart       = 4 + 2   // where what the CRC covers begins
)

// logDamage is where a log cannot be read, and what was found behind that.
type logDamage struct {
	file        string
	at          int  // its first byte
	wholeChunks int  // whole ones behind it
	synced      bool // one of them shows that an fsync had covered the damaged place
}

func (d *logDamage) Error() string {
	return fmt.Sprintf("%s is damaged at byte %d, with %d whole pieces behind it: what they hold was acknowledged, and is lost unless the folder comes from a backup", d.file, d.at, d.wholeChunks)
}

// checkNewestLog looks at the newest write-ahead log in a folder before Pebble does. Damage in acknowledged
// records is an error. Damage with whole pieces behind it that no fsync is known to have covered may
// be a crash's, and is only said.
func checkNewestLog(fs vfs.FS, dir string, log *slog.Logger) error {
	names, err := fs.List(dir)
	if err != nil {
		return nil //nolint:nilerr // a new folder, or Pebble's to say
	}
	newest, number := "", uint64(0)
	for _, name := range names {
		digits, ok := strings.CutSuffix(name, ".log")
		n, err := strconv.ParseUint(digits, 10, 64)
		if ok && err == nil && n >= number {
			newest, number = name, n
		}
	}
	if newest == "" {
		return nil
	}
	raw, err := readLog(fs, fs.PathJoin(dir, newest))
	if err != nil {
		return err
	}
	d := findDamage(raw, uint32(number))
	if d == nil {
		return nil
	}
	if d.file = fs.PathJoin(dir, newest); d.synced {
		return d
	}
	log.Warn("the end of the log is not whole: a crash cut it off, or it is damaged; what was not forced to the disk there is lost",
		"file", d.file, "at", d.at, "pieces", d.wholeChunks)
	return nil
}

func readLog(fs vfs.FS, path string) ([]byte, error) {
	info, err := fs.Stat(path)
	if err != nil || info.Size() > walMaxSize {
		return nil, err
	}
	f, err := fs.Open(path)
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(f)
	return raw, joinClose(err, f)
}

func joinClose(err error, c io.Closer) error {
	if closed := c.Close(); err == nil {
		err = closed
	}
	return err
}

// findDamage returns the first place in a log that is no chunk of it, if there are chunks of it behind
// that.
func findDamage(raw []byte, number uint32) *logDamage {
	at := 0
	for at < len(raw) {
		left := walBlock - at%walBlock
		if left < walHeader { // Pebble may fill the end of a block
			if _, ok := chunkLenAt(raw, at, number); !ok {
				at += left
				continue
			}
		}
		n, ok := chunkLenAt(raw, at, number)
		if !ok {
			break
		}
		at += n
	}
	if at >= len(raw) || isLogTrailer(raw, at, number) {
		return nil
	}
	d := &logDamage{at: at}
	for i := at + 1; i < len(raw); {
		n, ok := chunkLenAt(raw, i, number)
		if !ok {
			if isLogTrailer(raw, i, number) { // it was closed, whole
				d.synced = true
				d.wholeChunks++
			}
			i++
			continue
		}
		d.wholeChunks++
		if raw[i+6] >= walSyncedEncoding && binary.LittleEndian.Uint64(raw[i+11:]) > uint64(at) {
			d.synced = true
		}
		i += n
	}
	if d.wholeChunks == 0 {
		return nil
	}
	return d
}

// isLogTrailer reports whether at a byte there is what Pebble ends a log with when it closes it: an
// empty chunk of the next log.
func isLogTrailer(raw []byte, at int, number uint32) bool {
	return at+walCRCStart+5 <= len(raw) && binary.LittleEndian.Uint32(raw[at:]) == 0 && binary.LittleEndian.Uint16(raw[at+4:]) == 0 &&
		raw[at+6] >= walMinEncoding && raw[at+6] <= walMaxEncoding && binary.LittleEndian.Uint32(raw[at+7:]) == number+1
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// chunkLenAt is the length of the log's chunk that begins at a byte, if there is one.
func chunkLenAt(raw []byte, at int, number uint32) (n int, ok bool) {
	if at+walCRCStart+5 > len(raw) {
		return 0, false
	}
	encoding, header := raw[at+6], walHeader
	if encoding < walMinEncoding || encoding > walMaxEncoding || binary.LittleEndian.Uint32(raw[at+7:]) != number {
		return 0, false
	}
	if encoding < walSyncedEncoding {
		header -= 8
	}
	n = header + int(binary.LittleEndian.Uint16(raw[at+4:]))
	if at+n > len(raw) || at%walBlock+n > walBlock {
		return 0, false
	}
	c := crc32.Checksum(raw[at+walCRCStart:at+n], castagnoli)
	return n, binary.LittleEndian.Uint32(raw[at:]) == (c>>15|c<<17)+0xa282ead8
}
