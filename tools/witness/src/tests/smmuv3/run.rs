//! What must hold for a run as a whole.

use super::{FIRST, abort, config, good, kinds};

#[test]
fn dma_outside_of_any_check() {
    for kind in kinds() {
        for lines in [
            abort(0x30, 0x1000),
            kind.unmapped(0x30, 2, 0x1000),
            kind.walked(0x30, 2, 0x1000, 0x37_0000, 3),
            config(0x30),
        ] {
            // Right before the begin of a check; and at the very end.
            let mut run = good(kind);
            let before =
                run.trace.find("note begin of gone").and_then(|at| run.trace[..at].rfind("smmuv3_cmdq_consume "));
            run.trace.insert_str(before.unwrap_or(0), &lines);
            run.is_caught("DMA outside of any check");
            let mut run = good(kind);
            run.trace += &lines;
            run.is_caught("DMA outside of any check");
        }
    }
}

#[test]
fn setup() {
    for kind in kinds() {
        let line = |register: u64, value: u64, size: u64| {
            format!("smmuv3_write_mmio addr: {register:#x} val:{value:#x} size: {size:#x}(0)\n")
        };
        let without = |line: &str| good(kind).traced(line, "");
        without(&line(0x20, 0xd, 4)).is_caught("DMA before the unit had translation on");
        without(&line(0x80, 0x4000_0000_4037_0000, 8)).is_caught("DMA before the unit had a stream table");
        let off = line(0x20, 0xc, 4);
        good(kind).inside("fill", &off).is_caught("translation was turned off");
        let late = without(&line(0x20, 0xd, 4)).inside("attach", &line(0x20, 0xd, 4));
        late.is_caught("DMA before the unit had translation on");
        // Without its queues nothing of a trace makes sense.
        assert!(without(&line(0xa0, 0x4000_0000_4037_8008, 8)).verdict().failed > 0);
        assert!(without(&line(0x90, 0x4000_0000_4036_f008, 8)).verdict().failed > 0);
    }
}

#[test]
fn trouble() {
    for (line, words) in [
        ("smmuv3_cmdq_consume_error Error on SMMU_CMD_SYNC command execution: 1\n", "a command was refused"),
        ("smmuv3_write_gerror toggled=0x1, new GERROR=0x1\n", "a global error was raised"),
        ("smmuv3_unhandled_cmd Unhandled command type=64\n", "a command was ignored"),
    ] {
        good(FIRST).inside("fill", line).is_caught(words);
    }
    // Aborted without a look at any table: by GBPA.
    let off = "smmuv3_translate_abort region sid=0x20 abort on iova:0x1000 is_write=0\n";
    good(FIRST).inside("fill", off).is_caught(
        "fill: expected a translation of 0x20 at 0x1000; the trace shows an access aborted by a unit that was off",
    );
}

#[test]
fn markers() {
    for kind in kinds() {
        // A CMD_SYNC that is none: the check is nowhere, and its transfer belongs to none.
        let mut run = good(kind);
        let at = run.trace.find("note begin of fill").unwrap_or(0);
        let sync = run.trace[..at].rfind("SMMU_CMD_SYNC").unwrap_or(0);
        run.trace.replace_range(sync..sync + "SMMU_CMD_SYNC".len(), "SMMU_CMD_RESUME");
        let verdict = run.verdict();
        assert!(
            verdict.lines.iter().any(|line| line.contains("fill: marker") && line.contains("is not in the trace")),
            "{:?}",
            verdict.lines
        );
        assert!(verdict.lines.iter().any(|line| line.contains("DMA outside of any check")), "{:?}", verdict.lines);
    }
}

#[test]
fn every_line_counts() {
    // Without any one line of those that say something the run is not right any more. Where the unit stands after its
    // last command is also said before the next one.
    let silent = [
        "note ",
        "smmu_reset_exit",
        "smmu_get_pte",
        "smmu_ptw_invalid_pte",
        "smmu_iotlb_inv_all",
        "smmuv3_cmdq_tlbi",
        "smmuv3_cmdq_cfgi_ste_range",
        "smmuv3_cmdq_consume_out",
        "smmuv3_write_mmio addr: 0x44",
        "smmuv3_write_mmio addr: 0x9c",
        "smmuv3_write_mmio addr: 0x20 val:0x8",
        "smmuv3_write_mmio addr: 0x20 val:0xc",
        "smmuv3_write_mmio addr: 0xac",
    ];
    for kind in kinds() {
        let run = good(kind);
        let mut start = 0;
        for line in run.trace.split_inclusive('\n') {
            let end = start + line.len();
            if !silent.iter().any(|silent| line.starts_with(silent)) {
                let mut without = run.clone();
                without.trace.replace_range(start..end, "");
                assert!(without.verdict().failed > 0, "nothing is wrong without {line}");
            }
            start = end;
        }
    }
}

#[test]
fn a_trace_that_is_cut_off() {
    for kind in kinds() {
        let good = good(kind);
        let last = good.trace.rfind("smmuv3_cmdq_consume_out").unwrap_or(0);
        for at in (0..last).step_by(37) {
            let mut run = good.clone();
            run.trace.truncate(at);
            assert!(run.verdict().failed > 0, "cut at {at}");
        }
    }
}
