// A job type for Flamenco, Blender's own farm: copy this file into the Manager's scripts/ folder and restart it.
// Each task is one shard of the list, made by Blender's batch; a task that is sent again goes on.

const JOB_TYPE = {
    label: "DreamFlow batch",
    description: "Make a textured mesh from each prompt of a list",
    settings: [
        { key: "batch_py", type: "string", required: true, description: "batch.py of the installed extension, on a path that all workers have" },
        { key: "list", type: "string", required: true, description: "The prompts: a text file or a CSV" },
        { key: "out", type: "string", subtype: "dir_path", required: true, description: "A folder for each prompt goes here" },
        { key: "shards", type: "int32", default: 4, propargs: { min: 1 }, description: "How many tasks the list is divided into" },
        { key: "preset", type: "string", default: "draft", choices: ["draft", "fast", "paper"], description: "Quality and duration" },
        { key: "prior", type: "string", default: "mini", description: "The image model that guides the shape" },
        { key: "python", type: "string", default: "", description: "The backend's Python; empty: as set up in each worker's Blender" },
    ],
};

function compileJob(job) {
    const s = job.settings;
    if (!(s.shards >= 1)) {
        throw "Shards: expected at least 1, got " + s.shards;
    }
    for (let shard = 1; shard <= s.shards; shard++) {
        const args = [
            "-b", "--python-exit-code", "1", "-P", s.batch_py, "--", "--prompts", s.list, "--out", s.out,
            "--preset", s.preset, "--prior", s.prior, "--shard", shard + "/" + s.shards,
        ];
        if (s.python) {
            args.push("--python", s.python);
        }
        const task = author.Task("shard-" + shard + "-of-" + s.shards, "blender");
        task.addCommand(author.Command("exec", { exe: "{blender}", args: args }));
        job.addTask(task);
    }
}
