package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Durability says what a returned Append survives.
// Source: spec/engine.md section 8.5.
type Durability string

// The levels of durability.
const (
	DurabilityProcess    Durability = "process"     // a crash of the process; power loss may lose up to two seconds
	DurabilityDisk       Durability = "disk"        // also a crash of the system and power loss; not loss of the disk
	DurabilityQuorum     Durability = "quorum"      // permanent loss of one node; needs a cluster
	DurabilityQuorumDisk Durability = "quorum+disk" // both; needs a cluster
)

// Options configure an engine.
type Options struct {
	Dir          string                // data directory, used by one process at a time
	Durability   Durability            // default disk
	LogQuota     int64                 // bytes the event log may hold above its floor; 0 = 10 GiB, or 20 % of the disk space there is for it if that is less
	JournalQuota int64                 // bytes of delivery journal kept as history; 0 = 512 MiB
	Logger       *slog.Logger          // default: none
	Registerer   prometheus.Registerer // default: none
	Name         string                // of this node, in take-over records; default "carillon"
	SyncInterval time.Duration         // how often what is not synced with each write is synced; default 2 s, tests in fake time set a minute to make a day cheap; the disk is looked at ten times as often

	// FreeSpace reads the size of the file system that holds a directory and the
	// bytes still free to this process; default: what the system says.
	FreeSpace func(dir string) (total, free int64, err error)
}

const (
	maxLogQuota         = 10 << 30
	defaultJournalQuota = 512 << 20
	closeLimit          = 30 * time.Second // for a store that does not answer any more
	looksPerSync        = 10               // at the disk: every 200 ms
)

// withDefaults fills what is not set, and refuses levels that one node cannot
// keep.
func (o Options) withDefaults() (Options, error) {
	switch o.Durability {
	case "":
		o.Durability = DurabilityDisk
	case DurabilityProcess, DurabilityDisk:
	case DurabilityQuorum, DurabilityQuorumDisk:
		return o, fmt.Errorf("durability %q needs a cluster of three or more storage nodes, and this engine is embedded in one process: use %q or %q", o.Durability, DurabilityDisk, DurabilityProcess)
	default:
		return o, fmt.Errorf("durability %q is not known: use %q or %q", o.Durability, DurabilityDisk, DurabilityProcess)
	}
	if o.LogQuota < 0 || o.JournalQuota < 0 {
		return o, fmt.Errorf("log quota %d and journal quota %d must not be negative", o.LogQuota, o.JournalQuota)
	}
	if o.JournalQuota == 0 {
		o.JournalQuota = defaultJournalQuota
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.SyncInterval <= 0 {
		o.SyncInterval = 2 * time.Second
	}
	if o.Name == "" {
		o.Name = "carillon"
	}
	if o.FreeSpace == nil {
		o.FreeSpace = diskSpace
	}
	return o, nil
}

// Engine is an open data directory.
type Engine struct {
	opts        Options
	dir         *directory
	disk        *diskWatch
	node        *node
	lateness    lateness
	partition   *Partition
	kv          *KV
	deadLetters *Table
	work        *Table
	audit       *Table
	metrics     *metrics

	quotaUnset bool // the log's quota follows the disk
	restarting sync.Mutex
	restarted  time.Time // when the store was last started anew; guarded by restarting

	stop      context.CancelCauseFunc
	keeper    sync.WaitGroup // watches disk and store
	writers   sync.WaitGroup // committer and journal
	projector sync.WaitGroup // fed by the committer, ends after it
	closeOnce sync.Once
	closeErr  error
}

// Open opens a data directory, takes its partition over and brings the
// projection up to the end of the log. It refuses a directory that another
// process uses and one of a newer format. It starts goroutines that Close ends.
func Open(ctx context.Context, o Options) (*Engine, error) {
	began := time.Now()
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("open engine: %w", err)
	}
	dir, err := openDirectory(o.Dir)
	if err != nil {
		return nil, err
	}
	e := &Engine{opts: o, dir: dir, quotaUnset: o.LogQuota == 0}
	replayed, err := e.start(ctx)
	if err != nil {
		if e.node != nil {
			e.node.stop()
		}
		if e.metrics != nil {
			e.metrics.unregister()
		}
		dir.unlock()
		return nil, fmt.Errorf("open engine in %s: %w", o.Dir, err)
	}
	work, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	e.stop = cancel
	e.writers.Go(func() { e.partition.committer.run(work) })
	e.writers.Go(func() { e.partition.journal.run(work) })
	e.projector.Go(func() { e.partition.projection.run(work) })
	e.keeper.Go(func() { e.keep(work) })
	e.report(replayed, time.Since(began))
	return e, nil
}

func (e *Engine) start(ctx context.Context) (replayed int, err error) {
	if err := e.dir.takeCleanMark(); err != nil {
		return 0, err
	}
	if err := e.dir.mend(e.opts.Logger, e.dir.clean); err != nil {
		return 0, err
	}
	if e.disk, err = newDiskWatch(e.opts); err != nil {
		return 0, err
	}
	if e.quotaUnset {
		if e.opts.LogQuota, err = e.defaultQuota(); err != nil {
			return 0, err
		}
	}
	if e.node, err = startNode(e.opts, &e.lateness); err != nil {
		return 0, err
	}
	if e.kv, err = openKV(ctx, e.node, "CP"); err != nil {
		return 0, err
	}
	e.kv.disk = e.disk
	if e.deadLetters, err = openTable(ctx, e.node, "DL", "dl."); err != nil {
		return 0, err
	}
	if e.work, err = openTable(ctx, e.node, "WK", "wk."); err != nil {
		return 0, err
	}
	if e.audit, err = openTable(ctx, e.node, "AU", "au."); err != nil {
		return 0, err
	}
	if e.partition, err = openPartition(ctx, e); err != nil {
		return 0, err
	}
	if e.metrics, err = newMetrics(e.opts.Registerer, e); err != nil {
		return 0, err
	}
	return e.partition.projection.replay(ctx, e.partition, e.dir.clean)
}

// report logs what was found in the directory.
func (e *Engine) report(replayed int, took time.Duration) {
	first, last := e.partition.Bounds()
	jFirst, jLast := e.partition.journal.Bounds()
	stop := "unclean"
	switch {
	case e.dir.fresh:
		stop = "none"
	case e.dir.clean:
		stop = "clean"
	}
	e.opts.Logger.Info("engine recovered",
		"dir", e.opts.Dir, "durability", string(e.opts.Durability), "last_stop", stop,
		"first_frame", first, "last_frame", last, "generation", e.partition.generation,
		"facts_replayed", replayed, "journal_messages", jLast+1-jFirst, "journal_bytes", e.partition.journal.Bytes(),
		"log_bytes", e.partition.Usage().Bytes, "log_quota", e.opts.LogQuota, "duration", took)
}

// Close stores what was accepted, stops the engine and marks the stop as
// graceful. Appends that come later are refused. A store that does not answer for
// half a minute is given up, without the mark.
func (e *Engine) Close() error {
	e.closeOnce.Do(func() {
		giveUp := time.AfterFunc(closeLimit, func() { e.stop(errors.New("store did not answer while closing")) })
		defer giveUp.Stop()
		p := e.partition
		p.committer.close()
		p.journal.close()
		e.writers.Wait()
		p.projection.close()
		e.projector.Wait()
		e.stop(errors.New("engine is closed"))
		e.keeper.Wait()
		e.node.stop()
		e.metrics.unregister()
		if _, last := p.Bounds(); p.projection.written.applied != last {
			e.closeErr = errors.New("close engine: not everything was projected; the next start replays it")
		} else {
			e.closeErr = e.dir.leaveCleanMark()
		}
		e.dir.unlock()
	})
	return e.closeErr
}

// Partition returns the event log: one partition while embedded.
func (e *Engine) Partition() *Partition { return e.partition }

// KV returns the control plane's key-value store.
func (e *Engine) KV() *KV { return e.kv }

// DeadLetters returns the table of dead letters.
func (e *Engine) DeadLetters() *Table { return e.deadLetters }

// Work returns the table of what is under way and goes on after a start: how far
// dead letters are written to their stores, replays of the log.
func (e *Engine) Work() *Table { return e.work }

// Audit returns the table of the audit log.
func (e *Engine) Audit() *Table { return e.audit }
