// nextflow run cohort.nf --manifest slides.csv --out cohort --parts 10
// The same command goes on with what is left; all parts write into the shared folder `out`.
params.parts = 10

process part {
    cpus 8
    memory '32 GB'
    // accelerator 1
    errorStrategy 'retry'
    maxRetries 2

    input:
    val number

    output:
    val number

    script: // exit code 1: some slides failed, the others are done
    """
    recontour cohort ${file(params.manifest)} -o ${file(params.out)} \
        --shard ${number}/${params.parts} --threads ${task.cpus} --skip-errors || [ \$? -eq 1 ]
    """
}

process whole {
    input:
    val numbers

    script:
    """
    recontour cohort ${file(params.manifest)} -o ${file(params.out)} --skip-errors
    """
}

workflow {
    part(Channel.of(1..params.parts))
    whole(part.out.collect())
}
